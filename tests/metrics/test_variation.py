"""Path lengths of paths that are known, and which of the codes a model listens to."""

from dataclasses import replace

import pytest
import torch

from zsem.data.images import load_images
from zsem.metrics.variation import path_length, variation
from zsem.values import draws
from zsem.values.codes import Codes, Noise


def square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).square().mean(dim=(1, 2, 3))


def some_codes(n: int, seed: int) -> Codes:
    x_T = draws.normal([(seed, i) for i in range(n)], (1, 4, 4))
    return Codes(z=draws.normal([(seed, 9, i) for i in range(n)], (3,)), noise=Noise(x_T=x_T), shape=(1, 4, 4))


def test_a_straight_path_of_pictures_is_as_long_as_its_ends_are_apart():
    a, b = some_codes(5, 0), some_codes(5, 1)

    def decode(codes: Codes) -> torch.Tensor:
        return codes.z.double()[:, :, None, None].expand(-1, 3, 4, 4)

    expected = square(decode(a), decode(b))
    figures = path_length(decode, a, b, square)
    assert figures.n == 5
    assert figures.distance == pytest.approx(float(expected.mean()), rel=1e-2)


def test_a_path_that_is_uneven_is_longer():
    """z^3 from -1 to 1 goes fast at its ends: the mean square speed is (1/2) of the integral of 36 z^4, 7.2, not 4."""
    ends = [
        Codes(z=torch.full((80, 1), value), noise=some_codes(80, 0).noise, shape=(1, 4, 4)) for value in (-1.0, 1.0)
    ]

    def decode(codes: Codes) -> torch.Tensor:
        return codes.z.double()[:, :, None, None].expand(-1, 1, 4, 4) ** 3

    assert path_length(decode, ends[0], ends[1], square).distance == pytest.approx(7.2, rel=0.25)
    assert path_length(decode, ends[0], ends[1], square, seed=1) != path_length(decode, ends[0], ends[1], square)


def test_as_many_beginnings_as_ends():
    with pytest.raises(ValueError, match=r"beginnings \(2\) as ends \(3\)"):
        path_length(lambda codes: codes.z, some_codes(2, 0), some_codes(3, 0), square)


@pytest.mark.parametrize("heard", ["z", "x_T"])
def test_variation_tells_which_code_the_pictures_follow(small_model, image_folder, monkeypatch, heard):
    codes = small_model.encode(load_images(image_folder, size=16).pixels[:6], noise=False)
    codes = replace(codes, z=draws.normal([(3, i) for i in range(6)], (8,)))

    def decode(codes: Codes) -> torch.Tensor:
        assert codes.noise is not None
        picture = codes.noise.x_T[:, :1] if heard == "x_T" else codes.z[:, :, None, None].expand(-1, 8, 16, 16)
        return picture + 0.01 * codes.noise.x_T[:, 1:2] + 0.01 * codes.z[:, :1, None, None]

    monkeypatch.setattr(small_model, "decode", decode)
    found = variation(small_model, codes, square)
    assert (found.vary.n, found.mix.n) == (6, 6)
    assert found.ratio < 0.01 if heard == "z" else found.ratio > 100


def test_variation_of_a_real_model(small_model, image_folder):
    codes = small_model.encode(load_images(image_folder, size=16).pixels[:3], noise=False)
    found = variation(small_model, codes, square)
    first = small_model.decode(small_model.vary(codes, seed=0))
    second = small_model.decode(small_model.vary(codes, seed=1))
    assert found.vary.distance == pytest.approx(float(square(first, second).mean()), rel=1e-5)
    assert found.mix.distance > 0
    with pytest.raises(ValueError, match="give codes of two or more"):
        variation(small_model, codes[:1], square)
