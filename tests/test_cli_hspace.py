"""`zsem directions` and `zsem edit` in the bottleneck and in noisy images, run as people run them."""

import csv
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsem import api
from zsem.data.images import load_images
from zsem.data.labels import TABLE
from zsem.hspace.boundary import Reach
from zsem.hspace.collect import collect
from zsem.hspace.edits import asymmetric, symmetric
from zsem.hspace.engine import Shifts
from zsem.hspace.intervals import Curves
from zsem.models.diffusion import DiffusionModel
from zsem.models.judge import Judge
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.values.direction import Direction, load_directions, save_directions

STEPS = ("--steps", 3)


def diffusion(**settings) -> DiffusionModel:
    classes = settings.pop("num_classes", None)
    net = UNet.Config(
        channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), embed_channels=32,
        num_classes=classes,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = DiffusionModel(DiffusionModel.Config(image_size=16, unet=net, **settings))
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return diffusion()


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def data(image_folder, tmp_path_factory):
    """Forty discs that know how red they are, a third of them held out."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, path in enumerate(sorted(image_folder.glob("*.png"))):
        split = "val" if i % 3 == 0 else "train"
        (folder / split).mkdir(exist_ok=True)
        picture = Image.open(path)
        picture.save(folder / split / path.name)
        red, _, blue = np.asarray(picture, dtype=float).mean(axis=(0, 1))
        rows.append([f"{split}/{path.name}", int(red > 127), int(blue > 127)])
    with (folder / TABLE).open("w", newline="") as file:
        csv.writer(file).writerows([["path", "red", "blue"], *rows])
    return folder


@pytest.fixture(scope="module")
def few(image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    for name in ("00", "01"):
        (folder / f"{name}.png").write_bytes((image_folder / f"{name}.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """Directions in h, one of them of a boundary, and some that do not fit."""
    folder = tmp_path_factory.mktemp("files")
    rng = torch.Generator().manual_seed(1)
    shape = model.bottleneck_shape
    made = {
        "smile": Direction(
            space="h", vector=torch.randn(2, *shape, generator=rng), unit="mean difference of smile", name="smile",
            model=model.stamp, timesteps=(900.0, 300.0),
        ),
        "hat": Direction(
            space="h", vector=torch.randn(*shape, generator=rng), unit="standard deviation", name="hat",
            model=model.stamp,
        ),
        "x": Direction(
            space="x", vector=torch.randn(1, 3, 16, 16, generator=rng), unit="length in x", name="x",
            model=model.stamp, timesteps=(600.0,),
        ),
        "z": Direction(space="z", vector=torch.ones(8), unit="logit", name="z", model=model.stamp),
    }  # fmt: skip
    made["side"] = replace(
        made["hat"], vector=made["hat"].vector[None] / made["hat"].vector.square().sum(), timesteps=(500.0,),
        slope=float(made["hat"].vector.square().sum()), intercept=0.5, name="side",
    )  # fmt: skip
    made["foreign"] = replace(made["hat"], model="abc", name="foreign")
    for name, one in made.items():
        save_directions(folder / f"{name}.safetensors", [one])
    return folder, made


def array(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def written(folder):
    return np.stack([array(folder / f"{name}.png") for name in ("00", "01")])


def pixels(model, made):
    return model.config.intensity.restore(made).permute(0, 2, 3, 1).numpy()


def options(files, *entries):
    return ("--direction", *(f"{files[0] / name}.safetensors={amount}" for name, amount in entries))


def test_mean_differences_are_those_of_the_labelled_images(zsem, run, model, data, tmp_path):
    code, out, err = zsem(
        "directions", run, data, "--space", "h", *STEPS, "--attribute", "red", "--limit", 12, "--out", tmp_path,
        "--json",
    )  # fmt: skip
    assert code == 0, err
    (row,) = json.loads(out)["directions"]
    assert (row["file"], row["timesteps"]) == ("red-mean.safetensors", 3)
    (found,) = load_directions(tmp_path / "red-mean.safetensors")
    images = load_images(data, size=16).split("train").limit(12)
    h, _ = collect(model, images, steps=3)
    red = images.attributes["red"] == 1
    wanted = h.h[red].mean(0) - h.h[~red].mean(0)
    np.testing.assert_allclose(found.vector.numpy(), wanted, atol=5e-3)  # h lay in a file as float16
    assert found.model == model.stamp and found.timesteps == h.timesteps


def test_what_another_attribute_changes_is_left_out(zsem, run, data, tmp_path):
    for name, more in (("all", []), ("kept", ["--keep", "blue"]), ("one", ["--average", "--pooled"])):
        code, _, err = zsem(
            "directions", run, data, "--space", "h", "--method", "mean", *STEPS, "--limit", 6, *more,
            "--out", tmp_path / name,
        )  # fmt: skip
        assert code == 0, err
    (blue,), (red,) = (load_directions(tmp_path / "all" / f"{name}-mean.safetensors") for name in ("blue", "red"))
    (kept,) = load_directions(tmp_path / "kept" / "red-mean.safetensors")
    assert not (tmp_path / "kept" / "blue-mean.safetensors").exists()
    assert abs(float((kept.vector * blue.vector).sum())) < 1e-4 * float(kept.vector.norm() * blue.vector.norm())
    (one,) = load_directions(tmp_path / "one" / "red-mean.safetensors")
    assert one.timesteps == () and tuple(one.vector.shape[1:]) == (1, 1)
    torch.testing.assert_close(one.vector, red.vector.mean(0).mean(dim=(1, 2), keepdim=True), atol=1e-2, rtol=0)


def test_components_of_samples(zsem, run, tmp_path):
    for more in ([], ["--separate"]):
        code, out, err = zsem(
            "directions", run, "--space", "h", "--method", "pca", *STEPS, "--limit", 5, "--components", 2, *more,
            "--out", tmp_path, "--json",
        )  # fmt: skip
        assert code == 0, err
        assert [row["file"] for row in json.loads(out)["directions"]] == ["pca_0.safetensors", "pca_1.safetensors"]
    first, second = (load_directions(tmp_path / f"pca_{j}.safetensors")[0].vector.flatten() for j in range(2))
    assert first.norm() > second.norm()


def test_samples_that_a_judge_scores(zsem, run, tmp_path):
    net = SemanticEncoder.Config(channels=8, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), patch=4)
    Judge(Judge.Config(image_size=16, attributes=("smile",), net=net)).save(tmp_path / "judge")
    code, out, err = zsem(
        "directions", run, "--space", "h", "--judge", tmp_path / "judge", "--limit", 4, "--ends", 1, *STEPS,
        "--out", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["directions"][0]["length"] > 0
    assert load_directions(tmp_path / "smile-mean.safetensors")[0].name == "smile"


def test_boundaries_come_with_what_can_be_read_when(zsem, run, data, files, tmp_path):
    code, out, err = zsem(
        "directions", run, data, "--space", "h", "--method", "boundary", *STEPS, "--pooled", "--attribute", "red",
        "--out", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads(out)
    curve = figures["readings"]["red"]
    assert len(curve) == 3 and all(0 <= row["auroc"] <= 1 and 0 <= row["accuracy"] <= 1 for row in curve)
    assert json.loads((tmp_path / "readings.json").read_text())["readings"]["red"] == curve
    best = max(curve, key=lambda row: row["auroc"])
    assert figures["directions"][0]["timestep"] == best["timestep"]
    (found,) = load_directions(tmp_path / "red-boundary.safetensors")
    assert found.slope is not None and found.timesteps == (best["timestep"],)


@pytest.mark.parametrize(
    ("space", "masked", "name"), [("h", False, "eps_of_h"), ("x", False, "h_of_x"), ("x", True, "x0_of_x")]
)
def test_jacobians(zsem, run, few, space, masked, name, tmp_path):
    Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), 4)).save(tmp_path / "mask.png")
    code, out, err = zsem(
        "directions", run, few, "--space", space, "--method", "jacobian", "--timestep", 500, *STEPS, "--components", 1,
        "--tolerance", 0.2, *(["--mask", tmp_path / "mask.png"] if masked else []), "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads(out)
    assert figures["residual"] <= 0.2 and figures["directions"][0]["sigma"] > 0
    (found,) = load_directions(tmp_path / "out" / f"{name}_0.safetensors")
    assert found.space == space and found.timesteps == (500.0,)
    options = ("--direction", f"{tmp_path / 'out' / found.name}.safetensors=30", *STEPS)
    for amount, same in ((30, False), (0, True)):
        code, _, err = zsem(
            "edit", run, few, options[0], options[1].replace("=30", f"={amount}"), *STEPS, "--out",
            tmp_path / str(amount),
        )  # fmt: skip
        assert code == 0, err
        assert np.array_equal(written(tmp_path / str(amount)), written(few)) is same


def test_edits_are_those_of_the_function_and_add_up(zsem, run, model, few, files, tmp_path):
    code, out, err = zsem(
        "edit", run, few, *options(files, ("smile", 1.5), ("hat", -1)), *STEPS, "--gain", 2, "--t-edit", 400,
        "--out", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["unit"] == "mean difference of smile, standard deviation"
    images = load_images(few, size=16)
    codes = model.invert(images, grid=model.grid(3, forced=[400]))
    assert 400 in codes.timesteps
    shift = Shifts([(1.5, files[1]["smile"]), (-1, files[1]["hat"])])
    wanted = symmetric(model, codes, shift, gain=2, interval=(400, 999))
    assert np.array_equal(written(tmp_path), pixels(model, wanted))
    assert array(tmp_path / "edit.png").shape[0] > 3 * 64


def test_strength_zero_gives_the_images_back(zsem, run, few, files, tmp_path):
    for number, more in enumerate(([], ["--gain", 5], ["--t-edit", 300])):
        zsem("edit", run, few, *options(files, ("smile", 0)), *STEPS, *more, "--out", tmp_path / str(number))
        assert np.array_equal(written(tmp_path / str(number)), written(few))
    zsem("edit", run, few, *options(files, ("smile", 0)), *STEPS, "--full-size", "--out", tmp_path / "full")
    assert np.array_equal(written(tmp_path / "full"), written(few))


def test_the_published_process(zsem, run, model, few, files, tmp_path):
    told = ("--mode", "asymmetric", "--t-edit", 500, *STEPS)
    images = load_images(few, size=16)
    codes = model.invert(images, codec="ddim", grid=model.grid(3, "ddim", forced=[500]))
    for amount in (0, 1):
        code, _, err = zsem("edit", run, few, *options(files, ("hat", amount)), *told, "--out", tmp_path / str(amount))
        assert code == 0, err
    assert np.array_equal(written(tmp_path / "0"), pixels(model, model.decode(codes)))
    edited = asymmetric(model, codes, files[1]["hat"], t_edit=500)
    assert np.array_equal(written(tmp_path / "1"), pixels(model, edited))
    zsem("edit", run, few, *options(files, ("hat", 1)), *told, "--t-boost", 200, "--out", tmp_path / "boost")
    assert not np.array_equal(written(tmp_path / "boost"), written(tmp_path / "1"))


def test_fresh_noise_does_not_depend_on_the_chunks(zsem, run, few, files, tmp_path, monkeypatch):
    told = (*options(files, ("hat", 1)), "--mode", "asymmetric", "--t-edit", 500, "--t-boost", 400, *STEPS)
    zsem("edit", run, few, *told, "--out", tmp_path / "whole")
    monkeypatch.setattr("zsem.cli.edits.CHUNK", 1)
    zsem("edit", run, few, *told, "--out", tmp_path / "parts")
    assert np.abs(written(tmp_path / "whole").astype(int) - written(tmp_path / "parts")).max() <= 1


def test_images_are_brought_to_a_distance(zsem, run, model, few, files, tmp_path):
    code, _, err = zsem("edit", run, few, *options(files, ("side", 3)), "--reach", *STEPS, "--out", tmp_path)
    assert code == 0, err
    codes = model.invert(load_images(few, size=16), grid=model.grid(3, forced=[500]))
    wanted = symmetric(model, codes, Reach(files[1]["side"], 3))
    assert np.array_equal(written(tmp_path), pixels(model, wanted))


def test_content_of_another_image(zsem, run, few, tmp_path):
    told = ("--content", few / "01.png", *STEPS)
    for gamma in (0, 0.8):
        code, _, err = zsem("edit", run, few, *told, "--gamma", gamma, "--gain", 4, "--out", tmp_path / str(gamma))
        assert code == 0, err
    assert np.array_equal(written(tmp_path / "0"), written(few))
    assert not np.array_equal(array(tmp_path / "0.8" / "00.png"), array(few / "00.png"))


def test_measured_intervals_say_where_to_edit(zsem, model, few, files, tmp_path):
    run = model.save(tmp_path / "model")
    levels = (100.0, 400.0, 900.0)
    curves = Curves(
        timesteps=levels, x0=(0.0, 0.29, 1.0), x_t=(0.0, 0.85, 1.0), distance="rms", image_size=16, images=2,
        model=model.stamp,
    )  # fmt: skip
    curves.save(run / "hspace" / "intervals.json")
    options_ = options(files, ("smile", 2))
    zsem("edit", run, few, *options_, *STEPS, "--out", tmp_path / "a")
    zsem("edit", run, few, *options_, *STEPS, "--t-edit", 400, "--out", tmp_path / "b")
    assert np.array_equal(written(tmp_path / "a"), written(tmp_path / "b"))
    replace(curves, model="abc").save(run / "hspace" / "intervals.json")
    code, _, err = zsem("edit", run, few, *options_, *STEPS, "--out", tmp_path / "c")
    assert code == 2 and "measure again with `zsem hspace intervals`" in err


def test_autoencoders_and_models_of_classes(zsem, small_model, few, image_folder, tmp_path):
    classes = tmp_path / "classes"
    for i, path in enumerate(sorted(image_folder.glob("*.png"))[:8]):
        (classes / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (classes / "ab"[i % 2] / path.name).write_bytes(path.read_bytes())
    conditional = diffusion(num_classes=2, class_names=("b", "a"))
    for name, model, images in (("auto", small_model, few), ("classes", conditional, classes)):
        run = model.save(tmp_path / name)
        jacobian = ("--space", "h", "--method", "jacobian", "--timestep", 500, "--components", 1, "--tolerance", 1)
        code, _, err = zsem("directions", run, images, *jacobian, *STEPS)
        assert code == 0, err
        file = run / "hspace" / "directions" / "eps_of_h_0.safetensors"
        for amount, same in ((0, True), (40, False)):
            code, _, err = zsem("edit", run, images, "--direction", f"{file}={amount}", *STEPS, "--out", tmp_path / "o")
            assert code == 0, err
            paths = [path.relative_to(images) for path in images.rglob("*.png")]
            alike = [np.array_equal(array(images / path), array(tmp_path / "o" / path)) for path in paths]
            assert all(alike) if same else not any(alike)
    code, _, err = zsem("edit", tmp_path / "classes", few, "--direction", file, *STEPS, "--out", tmp_path / "p")
    assert code == 2 and "called as the model's classes: b, a" in err


def test_a_folder_of_diffusers(zsem, few, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = diffusers.UNet2DModel(
            sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=None,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            freq_shift=1, flip_sin_to_cos=False, downsample_padding=0, norm_eps=1e-6,
        )  # fmt: skip
    network.save_pretrained(tmp_path / "theirs")
    told = ("--space", "h", "--method", "pca", *STEPS, "--limit", 4, "--components", 1, "--out", tmp_path)
    code, _, err = zsem("directions", tmp_path / "theirs", *told)
    assert code == 0, err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the folder says nothing of a noise schedule
        model = api.load(tmp_path / "theirs", device="cpu")
    plain = pixels(model, model.decode(model.invert(load_images(few, size=16), steps=3)))
    for amount, same in ((0, True), (-50, False)):
        entry = f"{tmp_path / 'pca_0.safetensors'}={amount}"
        code, _, err = zsem("edit", tmp_path / "theirs", few, "--direction", entry, *STEPS, "--out", tmp_path / "o")
        assert code == 0, err
        assert np.array_equal(written(tmp_path / "o"), plain) is same


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("directions", "RUN", "--space", "h"), "mean looks at h of images: name DATA after RUN, or let a --judge"),
        (("directions", "RUN", "--space", "h", "--method", "sefa"), "sefa finds no directions in h"),
        (("directions", "RUN", "FEW", "--space", "x", "--method", "pca"), "choose one of jacobian"),
        (("directions", "RUN", "FEW", "--space", "h"), "has no labels"),
        (("directions", "RUN", "FEW", "--space", "h", "--mask", "m.png"), "--mask means nothing for mean in h"),
        (("directions", "RUN", "FEW", "--space", "h", "--limit", "2"), "--limit must be at least 4, not 2"),
        (("directions", "RUN", "DATA", "--space", "h", "--attribute", "hat"), "there is no attribute 'hat'"),
        (("directions", "RUN", "FEW", "--method", "boundary"), "finds directions in h or x: say --space h"),
        (("directions", "RUN", "FEW", "--timestep", "5"), "--timestep is for directions in h and x"),
        (("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors", "DIR/z.safetensors"), "do not add up"),
        (("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors=much"), "an amount that is no number"),
        (("edit", "RUN", "FEW", "--direction", "DIR/foreign.safetensors"), "belongs to model abc"),
        (("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors", "--reach"), "and hat is none"),
        (("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors", "--scale", "3"), "--scale means nothing for"),
        (("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors", "--t-boost", "9"), "goes with --mode asymmetric"),
        (("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors", "--t-edit", "1000"), "0..999, not 1000"),
        (("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors", "--mode", "asymmetric"), "ends with --t-edit"),
        (("edit", "RUN", "FEW", "--direction", "DIR/x.safetensors", "--t-edit", "9"), "leave out --mode, --t-edit"),
        (("edit", "RUN", "FEW", "--direction", "DIR/z.safetensors", "--gain", "2"), "--gain means nothing for"),
        (("edit", "RUN", "FEW", "--direction", "DIR/x.safetensors", "--gain", "2"), "--reach and --gain"),
        (
            ("edit", "RUN", "FEW", "--direction", "DIR/hat.safetensors", "--mode", "asymmetric", "--t-edit", "9",
             "--gain", "2"),
            "--gain goes with --mode symmetric",
        ),
        (
            ("edit", "RUN", "FEW", "--direction", "DIR/side.safetensors", "--reach", "--t-edit", "600"),
            "below t_edit = 600",
        ),
        (("edit", "RUN", "FEW", "--content", "FEW/00.png", "--gamma", "2"), "--gamma must lie in 0..1, not 2"),
        (("edit", "RUN", "FEW", "--content", "FEW"), "holds several images: give one file"),
        (("edit", "RUN", "FEW", "--content", "FEW", "--set", "a=1"), "with either --set"),
    ],
)  # fmt: skip
def test_mistakes(zsem, run, few, data, files, tmp_path, args, sentence):
    for word, path in (("RUN", run), ("FEW", few), ("DATA", data), ("DIR", files[0])):
        args = [arg.replace(word, str(path)) if arg.startswith(word) else arg for arg in args]
    code, out, err = zsem(*args, *STEPS[: 2 * ("h" in args)], "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert sentence in err
    assert len([line for line in err.splitlines() if line.startswith("zsem")]) == 1
    assert not (tmp_path / "out").exists()
