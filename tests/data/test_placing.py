"""Changes of small images in large photos."""

import numpy as np
import pytest
import torch

from zsem.data.intensity import choose_intensity, full_range
from zsem.data.placing import place
from zsem.data.shaping import centre_box, fit
from zsem.values import draws

RNG = np.random.default_rng(0)
SMALL = draws.normal([(0, 0)], (3, 16, 16))[0] / 3


def photo(depth: str, height: int, width: int, channels: int = 3) -> torch.Tensor:
    if depth == "float32":
        return torch.from_numpy(RNG.normal(size=(channels, height, width)).astype(np.float32))
    limits = np.iinfo(depth)
    return torch.from_numpy(RNG.integers(limits.min, limits.max + 1, (channels, height, width)).astype(depth))


def intensity_of(pixels: torch.Tensor):
    return choose_intensity(pixels[None]) if pixels.dtype == torch.float32 else full_range(str(pixels.dtype)[6:])


@pytest.mark.parametrize("depth", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (300, 201), (9, 12), (16, 16)])
def test_no_change_is_the_photo_to_the_bit(depth, height, width):
    whole = photo(depth, height, width)
    box = centre_box(height, width, (16, 16))
    out = place(whole, box, SMALL, SMALL.clone(), intensity=intensity_of(whole))
    assert out.dtype == whole.dtype
    assert torch.equal(out, whole)
    assert out is not whole


@pytest.mark.parametrize("depth", ["uint8", "uint16", "int16", "float32"])
def test_outside_box_and_mask_the_photo_is_what_it_was_and_inside_it_changes(depth):
    whole = photo(depth, 1024, 1300)
    box = centre_box(1024, 1300, (16, 16))
    mask = torch.zeros(16, 16)
    mask[4:8, 6:12] = 0.5
    edited = SMALL + draws.normal([(1, 0)], (3, 16, 16))[0]
    out = place(whole, box, edited, SMALL, intensity=intensity_of(whole), mask=mask)
    inside = torch.zeros(1024, 1300, dtype=torch.bool)
    left, top, side = box[0], box[1], 64  # photo pixels to a pixel of the model
    inside[top + 4 * side : top + 8 * side, left + 6 * side : left + 12 * side] = True
    same = (out == whole).all(dim=0)
    assert same[~inside].all()
    assert same[inside].float().mean() < 0.1
    unmasked = place(whole, box, edited, SMALL, intensity=intensity_of(whole))
    assert torch.equal(unmasked[:, inside], out[:, inside])
    assert torch.equal(unmasked[:, :, :138], whole[:, :, :138])
    assert torch.equal(unmasked[:, :, 138 + 1024 :], whole[:, :, 138 + 1024 :])


def test_a_mask_may_be_as_fine_as_the_photo():
    whole = photo("uint8", 64, 64)
    mask = torch.zeros(64, 64)
    mask[33, 7:9] = 0.1
    out = place(whole, (0, 0, 64, 64), SMALL + 1, SMALL, mask=mask)
    assert (out != whole).any(dim=0).nonzero().tolist() == [[33, 7], [33, 8]]


def test_the_change_is_as_large_as_it_was_in_the_units_of_the_photo():
    whole = torch.full((1, 320, 160), 1000, dtype=torch.uint16)
    edited = torch.zeros(1, 16, 16)
    out = place(whole, centre_box(320, 160, (16, 16)), edited + 0.5, edited, intensity=full_range("uint16"))
    assert (out[:, 80:240] == 1000 + 16384).all()  # half of half the range, rounded
    assert (out[:, :80] == 1000).all() and (out[:, 240:] == 1000).all()
    down = place(whole, (0, 80, 160, 240), edited - 0.5, edited, intensity=full_range("uint16"))
    assert (down[:, 80:240] == 0).all()  # kept within the type


def test_grey_changes_go_to_all_channels():
    whole = photo("uint8", 40, 40) // 2
    out = place(whole, (0, 0, 40, 40), torch.full((1, 8, 8), 0.2), torch.zeros(1, 8, 8))
    assert (out.int() - whole.int() - round(0.2 * 127.5)).abs().max() <= 1


def test_the_change_lies_where_the_model_saw_it():
    """The model sees a bright square in one of its pixels; a change of that pixel comes back on the square."""
    array = np.zeros((300, 500, 3), np.uint8)
    array[75:90, 280:295] = 200
    seen = torch.from_numpy(fit(array, (20, 20)).copy()).permute(2, 0, 1)
    place_seen = divmod(int(seen[0].argmax()), 20)
    edited = torch.zeros(3, 20, 20)
    edited[:, place_seen[0], place_seen[1]] = 0.4
    whole = torch.from_numpy(array).permute(2, 0, 1)
    out = place(whole, centre_box(300, 500, (20, 20)), edited, torch.zeros(3, 20, 20))
    change = (out.int() - whole.int()).sum(dim=0).double()
    for axis, middle in ((0, 82.0), (1, 287.0)):
        along = change.sum(dim=1 - axis)
        assert abs(float((along * torch.arange(len(along))).sum() / along.sum()) - middle) < 0.5
