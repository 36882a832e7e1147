"""The halves of diffusers' UNet2DModel against its own forward."""

import pytest
import torch

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import ddim, last
from zsem.hspace.engine import Bottleneck, Edited
from zsem.interop.unet2d import SplitUNet2D
from zsem.values.direction import Direction
from zsem.values.draws import normal
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

diffusers = pytest.importorskip("diffusers")

# google/ddpm-ema-celebahq-256, with fewer channels and smaller images
CELEBA_HQ = {
    "sample_size": 64, "block_out_channels": (8, 8, 16, 16, 16, 16), "layers_per_block": 2, "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4, "downsample_padding": 0,
    "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "attention_head_dim": None,
    "mid_block_scale_factor": 1, "act_fn": "silu",
}  # fmt: skip


def network(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DModel(**{**CELEBA_HQ, **settings}).eval()


@torch.no_grad()
@pytest.mark.parametrize("classes", [None, 3])
def test_the_halves_are_the_whole(classes):
    theirs = network(num_class_embeds=classes)
    split, cond = SplitUNet2D(theirs), Condition(classes=None if classes is None else torch.tensor([2, 0]))
    x, t = normal([(1, 0), (1, 1)], (3, 64, 64)), torch.tensor([3.0, 700.0])
    h, context = split.down(x, t, cond)
    assert h.shape == (2, 16, 2, 2) and isinstance(split, Bottleneck)
    assert torch.equal(split.up(h, context), theirs(x, t, cond.classes).sample)
    assert torch.equal(split(x, t, cond), theirs(x, t, cond.classes).sample)
    with pytest.raises(ZsemError, match="conditional on classes"):
        split.down(x, t, Condition() if classes else Condition(classes=torch.tensor([0, 0])))


def test_it_is_edited_as_a_model_of_ours():
    schedule = NoiseSchedule()
    denoise = NetworkDenoiser(SplitUNet2D(network()), schedule, "eps")
    grid, x = TimeGrid.make(schedule, 3, spacing="uniform"), normal([(2, 0)], (3, 64, 64))
    shift = Direction(
        space="h", vector=normal([(3, 0)], (16, 2, 2))[0], unit="one", name="some", model="theirs"
    )  # fmt: skip
    plain, same, edited = (
        last(ddim(bind(one, Condition()), x, grid))[0]
        for one in (denoise, Edited(denoise, shift, 0), Edited(denoise, shift, 2, interval=(400, 999)))
    )
    assert torch.equal(plain, same)
    assert (edited - plain).abs().mean() > 1e-4


def test_networks_with_more_than_two_halves_are_refused():
    for settings, why in (
        ({"center_input_sample": True}, "centres"),
        ({"mid_block_type": None}, "no middle"),
        ({"time_embedding_type": "fourier"}, "divides its answer"),
    ):
        with pytest.raises(ZsemError, match=why):
            SplitUNet2D(network(**settings))
