"""Our U-Net against diffusers' UNet2DModel, which is written independently: same weights, same answers, both ways."""

import pytest
import torch

from zsem.interop import diffusers as pipelines
from zsem.interop.importing import is_foreign, read_models
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import UNet
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

diffusers = pytest.importorskip("diffusers")

DDPM = {
    "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 2, "downsample_padding": 0,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None, "norm_eps": 1e-6, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
BUTTERFLIES = {
    "sample_size": 32, "block_out_channels": (16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}  # fmt: skip
ADM = {
    "sample_size": 16, "block_out_channels": (32, 64), "resnet_time_scale_shift": "scale_shift", "out_channels": 6,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), "downsample_type": "resnet",
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"), "upsample_type": "resnet",
    "attention_head_dim": 16, "attn_norm_num_groups": 32, "num_class_embeds": 5,
}  # fmt: skip


def theirs(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return diffusers.UNet2DModel(**settings).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("settings", [DDPM, BUTTERFLIES, ADM], ids=["ddpm", "butterflies", "adm"])
def test_the_same_answers_there_and_back(settings, tmp_path, x):
    network = theirs(**settings)
    network.save_pretrained(tmp_path / "in")
    found = read_models([tmp_path / "in"])
    model = found.model
    assert isinstance(model, DiffusionModel)
    assert model.config.learned_range == (settings.get("out_channels") == 6)
    assert found.origins[0]["layout"] == "diffusers"
    assert model.config.class_dropout == 0.0  # it never saw a dropped class, and is not guided by their lack
    x, t = x[..., : settings["sample_size"], : settings["sample_size"]], torch.tensor([3.0, 900.0])
    classes = torch.tensor([0, 4]) if "num_class_embeds" in settings else None
    with torch.no_grad():
        wanted = network(x, t, class_labels=classes).sample
        torch.testing.assert_close(model.unet(x, t, Condition(classes=classes)), wanted, atol=1e-5, rtol=1e-5)
        pipelines.write(model, tmp_path / "out")
        again = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet").eval()
        torch.testing.assert_close(again(x, t, class_labels=classes).sample, wanted, atol=1e-5, rtol=1e-5)


def test_a_pipeline_brings_its_noise_schedule(tmp_path):
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=500, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )
    diffusers.DDPMPipeline(unet=theirs(**BUTTERFLIES), scheduler=scheduler).save_pretrained(tmp_path)
    assert is_foreign(tmp_path)
    model = read_models([tmp_path]).model
    assert isinstance(model, DiffusionModel)
    assert (model.config.schedule.kind, model.config.schedule.timesteps, model.config.prediction) == (
        "cosine",
        500,
        "v",
    )
    torch.testing.assert_close(model.schedule.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)
    pipeline = diffusers.DDPMPipeline.from_pretrained(pipelines.write(model, tmp_path / "out"))
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"act_fn": "gelu"}, "act_fn"),
        ({"down_block_types": ("DownBlock2D", "SkipDownBlock2D")}, "SkipDownBlock2D"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
    ],
)
def test_what_our_u_net_does_not_have_is_named(changes, named, tmp_path):
    network = theirs(**(DDPM | {"sample_size": 16}))
    network.register_to_config(**changes)
    network.save_pretrained(tmp_path)
    with pytest.raises(ZsemError, match=named):
        read_models([tmp_path])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (DiffusionModel.Config(image_size=16, unet=UNet.Config(channels=32, channel_mult=(1,), patch=2)), "patches"),
        (DiffusionModel.Config(image_size=16, unet=UNet.Config(channels=32, channel_mult=(2, 2))), "base width"),
        (DiffusionModel.Config(image_size=16, unet=UNet.Config(channels=48, channel_mult=(1, 2))), "groups"),
        (
            DiffusionModel.Config(image_size=16, unet=UNet.Config(channels=32, channel_mult=(1,), rescale=True)),
            "residual sums",
        ),
    ],
)
def test_what_diffusers_does_not_have_is_named(config, why, tmp_path):
    with pytest.raises(ZsemError, match=why):
        pipelines.write(DiffusionModel(config), tmp_path)
    assert not list(tmp_path.iterdir())
