"""Whole files through the whole import: DiffAE with its latent network, statistics and classifier; guided-diffusion."""

import hashlib
import json
import sys
import types
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import zsem
from zsem import api
from zsem.interop import layouts
from zsem.interop.conventions import Options
from zsem.interop.importing import CELEBA_ATTRIBUTES, read_models
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.nets.encoder import NoisyClassifierNet, SemanticEncoder
from zsem.nets.latent import LatentNet
from zsem.nets.unet import HalfUNet, UNet
from zsem.values.direction import load_directions
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

SIZE, Z = 16, 24
BODY = UNet.Config(channels=32, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=64)
ENCODER = SemanticEncoder.Config(channels=32, channel_mult=(1, 1, 2), attention_resolutions=(8,))
GUIDED = UNet.Config(
    channels=64, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(8,), num_head_channels=64,
    embed_channels=256,
)  # fmt: skip


def drawn(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def foreign(network: nn.Module, entries: list[layouts.Entry], prefix: str = "") -> dict[str, Tensor]:
    """The weights of a network under their official names, one-dimensional convolutions in their shape."""
    parameters = dict(network.named_parameters())
    state = {}
    for entry in entries:
        for name, part in entry.write(parameters[entry.ours].detach()).items():
            conv = name.endswith(("qkv.weight", "proj_out.weight", "qkv_proj.weight", "c_proj.weight"))
            state[prefix + name] = part[..., None] if conv else part
    return state


def network_state(seed: int) -> tuple[dict[str, Tensor], dict[str, nn.Module]]:
    unet = drawn(UNet(BODY, image_size=SIZE, image_channels=3, z_dim=Z), seed)
    encoder = drawn(SemanticEncoder(ENCODER, image_size=SIZE, image_channels=3, z_dim=Z), seed + 1)
    latent = drawn(LatentNet(LatentNet.Config(layers=4, hidden=40, time_channels=16), z_dim=Z), seed + 2)
    state = foreign(unet, layouts.adm(unet, time="time_embed.time_embed"))
    state |= foreign(encoder, layouts.adm_encoder(encoder), "encoder.")
    state["encoder.out.3.weight"] = state["encoder.out.3.weight"][..., None, None]
    state |= foreign(latent, layouts.latent(latent), "latent_net.")
    twice = {k.replace("linear_emb", "cond_layers.1"): v for k, v in state.items() if ".linear_emb." in k}
    return state | twice, {"unet": unet, "encoder": encoder, "latent": latent}


@pytest.fixture(scope="module")
def official():
    """A small official checkpoint: (its content as Lightning 1.4 saves it, networks with its averaged weights)."""
    ema, networks = network_state(0)
    raw, _ = network_state(50)
    state = {f"ema_model.{k}": v for k, v in ema.items()} | {f"model.{k}": v for k, v in raw.items()}
    state |= {
        "x_T": torch.zeros(32, 3, SIZE, SIZE),
        "conds_mean": torch.rand(1, Z),
        "conds_std": torch.rand(1, Z) + 0.5,
    }
    settings = {"img_size": SIZE, "T": 1000, "beta_scheduler": "linear", "latent_beta_scheduler": "const0.008"}
    return {"epoch": 3, "global_step": 9, "state_dict": state, "hyper_parameters": settings}, networks


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Write a checkpoint as Lightning 1.4 does, with callbacks keyed by a class that nobody can import later."""

    def write(content, name="last.ckpt"):
        module = types.ModuleType("lightning_of_1_4")
        key = type("ModelCheckpoint", (), {"__module__": module.__name__})
        module.ModelCheckpoint = key
        monkeypatch.setitem(sys.modules, module.__name__, module)
        if "state_dict" in content:
            content = {**content, "callbacks": {key: {"best": 1.0}}}
        torch.save(content, tmp_path / name)
        monkeypatch.delitem(sys.modules, module.__name__)
        return tmp_path / name

    return write


def without(content, *names):
    """The content with some of the state left out, by the beginning of the name."""
    return {**content, "state_dict": {k: v for k, v in content["state_dict"].items() if not k.startswith(names)}}


def test_the_whole_autoencoder(official, save, tmp_path):
    content, networks = official
    path = save(content)
    found = api.import_models([path], tmp_path / "run")
    model, state = zsem.load(tmp_path / "run", kind=DiffusionAutoencoder, device="cpu"), content["state_dict"]
    assert found.origins[0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.history["origin"][0] | {"sha256": ""} == {
        "file": "last.ckpt", "sha256": "", "layout": "diffae latent", "weights": "ema",
    }  # fmt: skip
    assert any("lightning_of_1_4.ModelCheckpoint" in note for note in found.left_out)
    assert model.config.prediction == "eps"
    torch.testing.assert_close(model.z_mean, state["conds_mean"][0])
    torch.testing.assert_close(model.z_std, state["conds_std"][0])
    x, t = torch.rand(2, 3, SIZE, SIZE) * 2 - 1, torch.tensor([1.0, 700.0])
    with torch.no_grad():
        z = networks["encoder"](x)
        assert torch.equal(model.encoder(x), z)
        assert torch.equal(model.unet(x, t, Condition(z=z)), networks["unet"](x, t, Condition(z=z)))
        prior = zsem.load(tmp_path / "run" / "prior", device="cpu")
        assert torch.equal(prior.net(z, t), networks["latent"](z, t))
    assert (prior.config.schedule.kind, prior.config.schedule.beta) == ("constant", 0.008)
    torch.testing.assert_close(prior.z_std, state["conds_std"][0])
    images = model.sample(2, prior=zsem.load_prior(tmp_path / "run", device="cpu"), steps=1)
    assert images.shape == (2, 3, SIZE, SIZE)
    assert prior.history["model"] == model.stamp
    raw = read_models([path], Options(weights="raw")).model
    assert isinstance(raw, DiffusionAutoencoder)
    assert not torch.equal(raw.encoder(x), z)


def test_both_ways_of_reconstruction(official, save, image_folder, tmp_path, capsys):
    from zsem.cli import main

    path = save(official[0])
    assert main(["import", str(path), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"][1]["kind"] == "latent_diffusion"
    figures = {}
    for codec in ("exact", "reference"):
        arguments = ["--codec", codec, "--steps", "10", "--limit", "4", "--json", "--out", str(tmp_path / codec)]
        assert main(["reconstruct", str(tmp_path / "run"), str(image_folder), *arguments]) == 0
        figures[codec] = json.loads(capsys.readouterr().out)
    assert figures["exact"]["identical"] == 1
    assert figures["exact"]["mse"] < 1e-10
    assert (figures["reference"]["nfe_encode"], figures["reference"]["nfe_decode"]) == (10, 10)
    assert 1e-8 < figures["reference"]["mse"] < 0.3  # clipped and approximate, but no noise


def test_parts_that_come_in_files_of_their_own(official, save, tmp_path):
    """A plain autoencoder, its latent.pkl, and its classifier, in one go or one after the other."""
    content, _ = official
    state = content["state_dict"]
    plain = save(without(content, "conds_", "ema_model.latent_net", "model.latent_net"), "autoencoder.ckpt")
    statistics = save(
        {"conds": torch.rand(5, Z), "conds_mean": state["conds_mean"][0], "conds_std": state["conds_std"][0]},
        "latent.pkl",
    )
    head = {f"{kind}classifier.{k}": v for kind in ("", "ema_") for k, v in nn.Linear(Z, 40).state_dict().items()}
    heads = save(
        {"state_dict": {**head, "conds_mean": state["conds_mean"], "conds_std": state["conds_std"]}}, "cls.ckpt"
    )
    alone = read_models([plain])
    assert any("latent.pkl" in note for note in alone.notes)
    api.import_models([plain, statistics, heads], tmp_path / "once")
    api.import_models([plain], tmp_path / "twice")
    api.import_models([heads], tmp_path / "twice")
    z = torch.randn(3, Z)
    for run in ("once", "twice"):
        model = zsem.load(tmp_path / run, kind=DiffusionAutoencoder, device="cpu")
        torch.testing.assert_close(model.z_mean, state["conds_mean"][0])
        directions = load_directions(tmp_path / run / "semantics" / "directions.safetensors")
        assert tuple(d.name for d in directions) == CELEBA_ATTRIBUTES
        assert {d.model for d in directions} == {model.stamp}
        normalised = (z - model.z_mean) / model.z_std
        logits = torch.stack([d.logit(normalised) for d in directions], dim=1)
        wanted = normalised @ head["classifier.weight"].T + head["classifier.bias"]
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close((2 * directions[0]).logit(normalised), logits[:, 0], atol=1e-5, rtol=1e-5)
    assert len(model.history["origin"]) == 2
    other = save({"state_dict": {**head, "conds_mean": torch.zeros(1, Z), "conds_std": torch.ones(1, Z)}}, "other.ckpt")
    with pytest.raises(ZsemError, match="do not belong together"):
        api.import_models([plain, statistics, other], tmp_path / "never")
    with pytest.raises(ZsemError, match="do not belong together"):
        api.import_models([other], tmp_path / "once")
    with pytest.raises(ZsemError, match="belong to an autoencoder"):
        api.import_models([heads], tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_plain_ddim_of_the_same_code(official, save):
    content, _ = official
    unet = drawn(UNet(BODY, image_size=SIZE, image_channels=3), 7)
    state = {f"ema_model.{k}": v for k, v in foreign(unet, layouts.adm(unet)).items()}
    state["x_T"] = content["state_dict"]["x_T"]
    model = zsem.load(save({"state_dict": state}), kind=DiffusionModel, device="cpu")
    x, t = torch.rand(1, 3, SIZE, SIZE), torch.tensor([30.0])
    with torch.no_grad():
        assert torch.equal(model.unet(x, t, Condition()), unet(x, t, Condition()))


def test_guided_diffusion_and_its_classifier(save):
    config = replace(GUIDED, num_res_blocks=2, channel_mult=(1, 2, 2, 2))
    unet = drawn(UNet(config, image_size=64, image_channels=3, out_channels=6), 1)
    path = save(foreign(unet, layouts.adm(unet)), "uncond.pt")
    found = read_models([path], Options(size=64))
    assert isinstance(found.model, DiffusionModel)
    assert found.model.config.learned_range
    assert found.model.config.class_dropout == 0.0
    assert any("heads of 64" in note for note in found.notes)
    x, t = torch.rand(1, 3, 64, 64), torch.tensor([30.0])
    with torch.no_grad():
        torch.testing.assert_close(found.model.unet(x, t, Condition()), unet(x, t, Condition()))
    half = HalfUNet.Config(
        channels=64, channel_mult=(1, 1, 1), num_res_blocks=1, attention_resolutions=(16, 8), num_head_channels=64,
        embed_channels=256,
    )  # fmt: skip
    net = drawn(NoisyClassifierNet(half, image_size=32, image_channels=3, num_outputs=7), 2)
    classifier = read_models([save(foreign(net, layouts.adm(net)), "classifier.pt")]).model
    assert isinstance(classifier, NoisyClassifier)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x[..., :32, :32], t), net(x[..., :32, :32], t))


def test_the_containers_of_training_scripts(save):
    unet = drawn(UNet(replace(BODY, time="add", resample="conv_tail", norm_eps=1e-6, frequency_shift=1),
                      image_size=SIZE, image_channels=3), 1)  # fmt: skip
    state = {f"module.{name}": tensor for name, tensor in foreign(unet, layouts.ddpm(unet)).items()}
    x, t = torch.rand(1, 3, SIZE, SIZE), torch.tensor([30.0])
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for content, weights in (
        ([state, {"state": {}}, 7], None),
        ([other, {"state": {}}, 7, 9, state], "ema"),
        ({"ema": state, "model": other, "step": 3}, "ema"),
        ({"model_ema": other, "model": state}, "raw"),
        ({"epoch": 1, "model": state}, None),
    ):
        path = save(content, "ddpm.ckpt")
        found = read_models([path], Options(weights="raw" if weights == "raw" else None))
        assert isinstance(found.model, DiffusionModel)
        assert found.origins[0].get("weights") == weights
        assert found.model.config.image_size == 32  # attention on the second level is taken to be of 16 pixels
        with torch.no_grad():
            torch.testing.assert_close(found.model.unet(x, t, Condition()), unet(x, t, Condition()))
    with pytest.raises(ZsemError, match="one set of weights"):
        read_models([save(state, "flat.ckpt")], Options(weights="raw"))
    with pytest.raises(ZsemError, match="no ema weights"):
        read_models([save({"model": state})], Options(weights="ema"))


def broken(content, change):
    state = dict(content["state_dict"])
    change(state)
    return {**content, "state_dict": state}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("ema_model.middle_block.1.qkv.weight"), "1 missing .middle_block.1.qkv.weight."),
        (lambda s: s.update({"ema_model.extra.weight": torch.zeros(1)}), "1 unexpected .extra.weight."),
        (lambda s: s.update({"ema_model.out.0.weight": torch.zeros(5)}), r"out.0.weight.*\[5\], not \[32\]"),
        (lambda s: s.pop("ema_model.encoder.out.3.weight"), "there is no out.3.weight"),
        (lambda s: s.pop("ema_model.encoder.middle_block.2.in_layers.2.bias"), "missing .encoder.middle_block.2"),
        (lambda s: [s.pop(k) for k in ("conds_mean", "conds_std")], "statistics: give latent.pkl"),
        (lambda s: [s.pop(k) for k in list(s) if ".output_blocks." in k], "attention are not read"),
        (lambda s: s.update({"conds_mean": torch.zeros(1, 7), "conds_std": torch.ones(1, 7)}), "of 7 numbers"),
        (lambda s: s.pop("conds_std"), "lacks the statistics of z"),
        (lambda s: s.update({"conds_mean": [0.0] * Z}), "lacks the statistics of z|statistics: give"),
    ],
)
def test_what_does_not_fit_is_named(official, save, change, said, tmp_path):
    path = save(broken(official[0], change))
    with pytest.raises(ZsemError, match=said) as error:
        api.import_models([path], tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_files_that_hold_something_else(official, save, tmp_path):
    for content, said in (
        ({"weight": torch.zeros(3)}, "no network that zsem knows .it begins with weight"),
        ({"state_dict": {"classifier.weight": torch.zeros(2, 4)}}, "no classifier"),
        ({**official[0], "hyper_parameters": {"beta_scheduler": "sigmoid"}}, "noise schedule 'sigmoid'"),
        ({**official[0], "hyper_parameters": {"beta_scheduler": ["linear"]}}, "noise schedule"),
        ({**official[0], "hyper_parameters": {"T": "many"}}, "T is 'many'"),
    ):
        with pytest.raises(ZsemError, match=said):
            read_models([save(content)])
    path = save(official[0])
    with pytest.raises(ZsemError, match="second model"):
        read_models([path, path])
    with pytest.raises(ZsemError, match="NoisyClassifier is wanted"):
        zsem.load(path, kind=NoisyClassifier)
    with pytest.raises(ZsemError, match="heads"):
        unet = drawn(UNet(GUIDED, image_size=16, image_channels=3), 1)
        read_models([save(foreign(unet, layouts.adm(unet)), "x.pt")], Options(heads=7))
    with pytest.raises(ZsemError, match="neither a checkpoint file nor"):
        api.import_models([tmp_path / "absent.ckpt"], tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(ZsemError, match="not empty"):
        api.import_models([path], tmp_path / "run")


def test_a_truncated_checkpoint_leaves_nothing_behind(official, save, tmp_path):
    path = save(official[0])
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ZsemError, match=r"last\.ckpt"):
        api.import_models([path], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_hyper_parameters_say_is_followed(official, save):
    """Heads, schedules and their scaling with T are in the file, and in no shape."""
    content, networks = official
    settings = {"T": 500, "beta_scheduler": "const0.01", "latent_beta_scheduler": "linear", "net_beatgans_attn_head": 4}
    found = read_models([save({**content, "hyper_parameters": settings})])
    model, prior = found.model, found.prior
    assert isinstance(model, DiffusionAutoencoder) and prior is not None
    assert (model.config.unet.num_heads, model.config.encoder.num_heads) == (4, 4)
    torch.testing.assert_close(model.schedule.alphas_cumprod, 0.98 ** torch.arange(1, 501, dtype=torch.float64))
    betas = torch.linspace(2e-4, 0.04, 500, dtype=torch.float64)
    torch.testing.assert_close(prior.schedule.alphas_cumprod, torch.cumprod(1 - betas, 0))
    x = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert not torch.allclose(model.encoder(x), networks["encoder"](x), atol=1e-4)


def test_weights_are_no_window_on_the_file(official, save):
    """A file that is overwritten, as `last.ckpt` is, must not change or kill what was loaded from it."""
    path = save(official[0])
    model = read_models([path]).model
    assert isinstance(model, DiffusionAutoencoder)
    x = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        before = model.encoder(x)
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
        torch.testing.assert_close(model.encoder(x), before)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"heads": -2}, {"head_channels": 0}, {"timesteps": -1}], ids=lambda o: next(iter(o))
)
def test_options_are_positive(options):
    with pytest.raises(ZsemError, match="at least 1"):
        Options(**options)


def test_options_that_mean_nothing_are_refused(official, save):
    with pytest.raises(ZsemError, match="rescale-timesteps means nothing"):
        read_models([save(official[0])], Options(rescale_timesteps=True))


def test_super_resolution_is_refused(save):
    unet = drawn(UNet(GUIDED, image_size=16, image_channels=6), 1)
    with pytest.raises(ZsemError, match="super-resolution"):
        read_models([save(foreign(unet, layouts.adm(unet)), "upsampler.pt")])
