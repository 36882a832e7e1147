"""Edits: nothing is the original to the bit, outside a mask too; morphs begin and end with the images."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data.images import load_images
from zsem.data.pixels import to_uint8
from zsem.diffusion.guidance import Extrapolate
from zsem.diffusion.schedule import NoiseSchedule
from zsem.semantics import edits
from zsem.semantics.edits import edit, find_mask, interpolate, masks_for, read_mask, renewed
from zsem.values import draws
from zsem.values.codes import Noise
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

STEPS = 6
STEP = torch.linspace(-2, 2, 8)


@pytest.fixture(scope="module")
def pixels(image_folder):
    return load_images(image_folder, size=16).pixels[:4]


@pytest.fixture(scope="module")
def codes(small_model, pixels):
    return small_model.encode(pixels, steps=STEPS)


@pytest.fixture
def evaluated(small_model):
    """The number of images of every evaluation of the network."""
    seen: list[int] = []
    hook = small_model.unet.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    yield seen
    hook.remove()


def half(side: int = 16) -> torch.Tensor:
    """A mask of the left half with a soft edge."""
    return torch.cat([torch.ones(side // 2), torch.tensor([0.6, 0.3]), torch.zeros(side // 2 - 2)]).expand(side, side)


@pytest.mark.parametrize(
    "settings", [{}, {"mask": half()}, {"mask": "auto"}, {"scale": 4.0, "rescale": 0.5, "keep_noise": 0.5}]
)
def test_nothing_is_the_original_to_the_bit(small_model, codes, settings, evaluated):
    decoded = small_model.decode(codes)
    evaluated.clear()
    assert torch.equal(edit(small_model, codes, codes.z.clone(), **settings), decoded)
    assert evaluated == [4] * STEPS


def test_only_what_changes_is_evaluated_twice(small_model, codes, evaluated):
    z = codes.z.clone()
    z[2] += STEP
    edited = edit(small_model, codes, z, scale=3.0, interval=None)
    assert sorted(evaluated) == [2] * STEPS + [3] * STEPS  # three originals; one edit, old and new z in one batch
    others = [0, 1, 3]
    assert torch.equal(edited[others], small_model.decode(codes[others]))
    assert torch.equal(edited[2:3], edit(small_model, codes[2:3], z[2:3], scale=3.0, interval=None))


def test_the_edit_is_delta_guidance_with_the_own_noise(small_model, codes):
    z = codes.z + STEP

    def steer(cond: Condition, rows: slice) -> Extrapolate:
        return Extrapolate(
            small_model.denoiser, Condition(z=codes.z[rows]), cond, scale=2.5, rescale=0.25, interval=(50, 800)
        )

    expected = small_model.decode(replace(codes, z=z), steer=steer)
    assert torch.equal(edit(small_model, codes, z, scale=2.5, rescale=0.25, interval=(50, 800)), expected)
    plain = small_model.decode(replace(codes, z=z))
    assert torch.equal(edit(small_model, codes, z, scale=1.0), plain)
    assert not torch.allclose(expected, plain)


@pytest.mark.parametrize("timesteps", [1000, 200])
def test_the_usual_intervals_are_shares_of_the_models_timesteps(small_model, pixels, timesteps, monkeypatch):
    config = replace(small_model.config, schedule=NoiseSchedule.Config(timesteps=timesteps))
    model = type(small_model)(config).eval()
    model.load_state_dict(small_model.state_dict())
    codes = model.encode(pixels, steps=12)
    z = codes.z + STEP
    usual = edit(model, codes, z, scale=3.0)
    assert torch.equal(usual, edit(model, codes, z, scale=3.0, interval=(timesteps // 10, timesteps)))
    assert not torch.equal(usual, edit(model, codes, z, scale=3.0, interval=None))
    assert not torch.equal(usual, edit(model, codes, z, scale=1.0))
    compared = []

    class Spied(edits.Comparison):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            compared.append(arguments[-1])

    monkeypatch.setattr(edits, "Comparison", Spied)
    find_mask(model, codes, z)
    assert compared == [(timesteps // 50, 3 * timesteps // 10)]


@pytest.mark.parametrize("codec", ["exact", "offsets", "ddim"])
@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_outside_the_mask_the_image_is_what_it_was(small_model, pixels, codec, keep):
    codes = small_model.encode(pixels, codec=codec, steps=STEPS)
    masks = torch.stack([half(), half().T, torch.zeros(16, 16), torch.ones(16, 16)])
    edited = edit(small_model, codes, codes.z + STEP, scale=3.0, mask=masks, keep_noise=keep)
    decoded = small_model.decode(codes)
    outside = (masks == 0)[:, None].expand_as(decoded)
    assert torch.equal(edited[outside], decoded[outside])
    if codec != "ddim":
        assert torch.equal(to_uint8(edited)[outside], pixels[outside])
    changed = (edited - decoded).abs().mean(dim=1)
    assert (changed[masks > 0] > 0).float().mean() > 0.99
    unmasked = edit(small_model, codes, codes.z + STEP, scale=3.0, keep_noise=keep)
    torch.testing.assert_close(edited[3], unmasked[3], atol=1e-4, rtol=1e-4)


def test_batches_make_no_difference_to_masked_edits(small_model, codes):
    seen = []
    masks = draws.normal([(5, i) for i in range(4)], (16, 16)).clamp(0, 1)
    together = edit(small_model, codes, codes.z + STEP, mask=masks)
    alone = edit(small_model, codes, codes.z + STEP, mask=masks, batch_size=1, progress=lambda *done: seen.append(done))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_renewed_noise_keeps_its_variance_and_scales_what_belongs_to_it():
    own, fresh = (draws.normal([(seed, 0)], (3, 64, 64)) for seed in (0, 1))
    noise = Noise(x_T=own, carry=own / 2, offsets=torch.stack([own, own], dim=1))
    mixed = renewed(noise, fresh, 0.6)
    assert float(mixed.x_T.var()) == pytest.approx(1, abs=0.03)
    assert float((mixed.x_T * own).mean()) == pytest.approx(0.6, abs=0.02)
    assert mixed.carry is not None and mixed.offsets is not None
    torch.testing.assert_close(mixed.carry, 0.3 * own)
    torch.testing.assert_close(mixed.offsets, 0.6 * torch.stack([own, own], dim=1))
    assert torch.equal(renewed(noise, fresh, 1.0).x_T, own)
    assert torch.equal(renewed(noise, fresh, 0.0).x_T, fresh)


def test_fresh_noise_depends_on_seed_and_position_alone(small_model, codes):
    z = codes.z + STEP
    whole = edit(small_model, codes, z, keep_noise=0.5, seed=3)
    rest = edit(small_model, codes[2:], z[2:], keep_noise=0.5, seed=3, first=2)
    torch.testing.assert_close(rest, whole[2:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(edit(small_model, codes, z, keep_noise=0.5, seed=4), whole)


def test_the_automatic_mask_is_where_predictions_differ(small_model, codes, monkeypatch):
    """The network is replaced by one whose answer depends on z in one corner alone."""

    def corner(x_t: torch.Tensor, t: torch.Tensor, cond: Condition) -> torch.Tensor:
        assert cond.z is not None
        out = torch.zeros_like(x_t)
        out[:, :, 2:6, 9:13] = cond.z.mean(dim=1)[:, None, None, None]
        return out

    monkeypatch.setattr(small_model.unet, "forward", corner)
    z = codes.z.clone()
    z[:3] += 1
    masks = find_mask(small_model, codes, z)
    assert (masks[:3, 2:6, 9:13] == 1).all()
    assert not masks[:3, :, :7].any() and not masks[:3, 8:].any()
    assert not masks[3].any()  # whose z is the old one
    assert ((masks > 0) & (masks < 1)).sum() == 0  # widened by one pixel at this size, which has no edge
    wide = find_mask(small_model, codes, z, share=0.01)
    assert (wide[:3] > 0).sum() > (masks[:3] > 0).sum()
    edited = edit(small_model, codes, z, mask="auto")
    assert torch.equal(edited, edit(small_model, codes, z, mask=masks))


def test_the_automatic_mask_is_soft_at_its_edge_within_what_it_widens():
    difference = np.zeros((64, 64))
    difference[20:40, 20:40] = 1
    mask = edits._region(difference, 0.5)
    assert (mask[22:38, 20:40] == 1).all()  # smoothing takes the corners
    ramp = mask[30, 40:46]
    assert (np.diff(ramp) <= 0).all() and ((ramp > 0) & (ramp < 1)).sum() >= 2
    assert not mask[:, 46:].any()


def test_masks_from_files_are_cut_as_images_are(small_model, codes, tmp_path):
    drawn = np.zeros((32, 48), np.uint8)
    drawn[:, 8:24] = 255  # the left half of the square in the middle
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", (16, 16))
    assert (mask[:, :8] == 1).all() and (mask[:, 8:] == 0).all()
    assert (read_mask(tmp_path / "mask.png", (7, 7))[0] > 0).tolist() == [True] * 4 + [False] * 3
    assert torch.equal(masks_for(small_model, codes, codes.z, tmp_path / "mask.png"), mask.expand(4, 16, 16))
    Image.fromarray(drawn.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    torch.testing.assert_close(read_mask(tmp_path / "deep.png", (16, 16)), mask, atol=0.01, rtol=0)
    Image.new("RGBA", (16, 16), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert not read_mask(tmp_path / "clear.png", (16, 16)).any()  # brushed on a transparent layer


def test_a_model_whose_sides_are_padded(small_model, image_folder):
    model = type(small_model)(replace(small_model.config, image_size=(13, 15))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    codes = model.encode(load_images(image_folder, size=(13, 15)).pixels[:2], steps=STEPS)
    mask = torch.zeros(13, 15)
    mask[:, :5] = 1
    edited, decoded = edit(model, codes, codes.z + STEP, mask=mask), model.decode(codes)
    assert torch.equal(edited[..., 5:], decoded[..., 5:])
    assert not torch.equal(edited, decoded)
    assert find_mask(model, codes, codes.z + STEP).shape == (2, 13, 15)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"mask": torch.zeros(8, 8)}, r"a mask must be \[16, 16\], or \[4, 16, 16\] for each image its own"),
        ({"mask": torch.zeros(3, 16, 16)}, r"not \[3, 16, 16\]"),
        ({"mask": torch.full((16, 16), 2.0)}, r"a mask must lie in 0\.\.1, this one has 2 to 2"),
        ({"mask": "nowhere.png"}, "nowhere.png cannot be read"),
        ({"interval": (800, 100)}, "the first and the last timestep: 800 comes after 100"),
        ({"keep_noise": 1.5}, r"keep_noise must lie in 0\.\.1, not 1.5"),
    ],
)
def test_mistakes(small_model, codes, more, sentence):
    with pytest.raises(ZsemError, match=sentence):
        edit(small_model, codes, codes.z + 1, **more)


def test_edits_need_noise(small_model, codes):
    with pytest.raises(ZsemError, match="encode them with noise"):
        edit(small_model, replace(codes, noise=None), codes.z + 1)
    with pytest.raises(ZsemError, match="encode with more steps"):
        find_mask(small_model, codes, codes.z + 1, interval=(400.2, 400.8))


def test_a_morph_begins_and_ends_with_the_images(small_model, pixels, codes):
    made = interpolate(small_model, codes[:1], codes[1:2], 5)
    assert made.shape == (5, 3, 16, 16)
    assert torch.equal(to_uint8(made[[0, -1]]), pixels[:2])
    assert all(not torch.equal(to_uint8(a), to_uint8(b)) for a, b in itertools.pairwise(made))
    still = interpolate(small_model, codes[:1], codes[:1], 2)
    assert torch.equal(to_uint8(still), pixels[[0, 0]])
    with pytest.raises(ZsemError, match="2 frames or more, not 1"):
        interpolate(small_model, codes[:1], codes[1:2], 1)


def test_a_morph_of_codes_with_offsets(small_model, pixels):
    a, b = (small_model.encode(pixels[i : i + 1], codec="offsets", steps=STEPS) for i in (0, 1))
    assert torch.equal(to_uint8(interpolate(small_model, a, b, 3)[[0, -1]]), pixels[:2])
    with pytest.raises(ZsemError, match="encode both images in the same way"):
        interpolate(small_model, a, small_model.encode(pixels[1:2], steps=STEPS), 3)
