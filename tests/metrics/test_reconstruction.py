"""Reconstruction figures against slow loops, closed forms and each other."""

import math

import numpy as np
import pytest
import torch

from zsem.data.intensity import Intensity, full_range
from zsem.data.pixels import from_uint8
from zsem.metrics.reconstruction import Reconstruction, ssim
from zsem.values import draws


def pixels(n: int, c: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    values = draws.generator(seed, n, c).integers(0, 256, (n, c, h, w), dtype=np.uint8)
    return torch.from_numpy(values)


def figures(images: torch.Tensor, decoded: torch.Tensor):
    metric = Reconstruction()
    metric.update(images, decoded)
    return metric.compute()


def slow_ssim(x: np.ndarray, y: np.ndarray, window: int = 11) -> float:
    """SSIM of one channel, written from the paper's sums: a window, its weighted moments, one position at a time."""
    r = np.arange(window) - window // 2
    weights = np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for i in range(x.shape[0] - window + 1):
        for j in range(x.shape[1] - window + 1):
            a, b = x[i : i + window, j : j + window], y[i : i + window, j : j + window]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("h", "w", "window"), [(16, 16, 11), (13, 20, 11), (11, 11, 11), (10, 14, 9), (8, 8, 7), (1, 5, 1)]
)
def test_ssim_equals_the_definition(h, w, window):
    x = pixels(2, 3, h, w).double() / 255
    y = (x + 0.1 * torch.from_numpy(draws.generator(1).standard_normal(x.shape))).clamp(0, 1)
    expected = [np.mean([slow_ssim(x[i, c].numpy(), y[i, c].numpy(), window) for c in range(3)]) for i in range(2)]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-12)


def test_ssim_closed_forms():
    x = pixels(2, 1, 16, 16).double() / 255
    assert ssim(x, x).tolist() == pytest.approx([1, 1], abs=1e-12)
    # Two flat images differ in luminance alone
    a, b = 0.25, 0.75
    flat = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    assert ssim(torch.full_like(x, a), torch.full_like(x, b)).tolist() == pytest.approx([flat, flat], abs=1e-12)
    assert torch.allclose(ssim(x, x.flip(0)), ssim(x.flip(0), x))


def test_equal_images():
    images = from_uint8(pixels(3, 3, 16, 16))
    result = figures(images, images)
    assert result.n == 3
    assert result.mse == 0
    assert result.psnr == math.inf
    assert result.ssim == pytest.approx(1)
    assert result.identical == 1


def test_known_error():
    """Half of the images are off by exactly 4 grey levels: mean, decibels and shares follow by hand."""
    original = pixels(4, 1, 12, 12).clamp(0, 250)
    wrong = original.clone()
    wrong[:2] += 4
    result = figures(from_uint8(original), from_uint8(wrong))
    mse = (4 / 255) ** 2 / 2
    assert result.mse == pytest.approx(mse, rel=1e-6)
    assert result.psnr == pytest.approx(10 * math.log10(1 / mse), rel=1e-6)
    assert result.identical == 0.5


def test_error_below_a_grey_level_counts_in_mse_and_not_in_identical():
    images = from_uint8(pixels(2, 3, 16, 16))
    result = figures(images, images.double() + 2e-6)
    assert result.mse == pytest.approx(1e-12, rel=1e-6)
    assert result.identical == 1


def test_values_outside_the_range_are_not_clipped():
    """An overshoot is an error of the decoder even where it would be shown as plain white."""
    white = torch.ones(1, 1, 11, 11)
    result = figures(white, white + 0.2)
    assert result.mse == pytest.approx(0.01, rel=1e-6)
    assert result.identical == 1


def test_merged_parts_equal_one_pass():
    images, decoded = from_uint8(pixels(6, 3, 14, 14)), from_uint8(pixels(6, 3, 14, 14, seed=1))
    whole, left, right = figures(images, decoded), Reconstruction(), Reconstruction()
    left.update(images[:1], decoded[:1])
    right.update(images[1:4], decoded[1:4])
    right.update(images[4:], decoded[4:])
    left.merge(right)
    left.merge(Reconstruction())
    merged = left.compute()
    assert merged.n == whole.n
    assert merged.identical == whole.identical
    assert (merged.mse, merged.psnr, merged.ssim) == pytest.approx((whole.mse, whole.psnr, whole.ssim), rel=1e-12)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no images"):
        Reconstruction().compute()
    # A ValueError in use; the shape annotations speak first while tests run
    with pytest.raises((ValueError, TypeError), match=r"differ in shape|Float\[Tensor, 'b c h w'\]"):
        Reconstruction().update(torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8))


def test_identical_is_told_at_the_depth_of_the_images():
    values = torch.from_numpy(draws.generator(5).integers(0, 65536, (2, 1, 20, 20)).astype(np.uint16))
    intensity = full_range("uint16")
    x = intensity.normalise(values)
    for shift, deep, eight in ((1e-5, 1.0, 0.9), (4e-5, 0.0, 0.9)):  # a step of 16 bits is 3.05e-5
        found = []
        for metric in (Reconstruction(intensity), Reconstruction()):
            metric.update(x, x + shift)
            found.append(metric.compute().identical)
        assert found[0] == pytest.approx(deep, abs=0.01) and found[1] > eight
    floats = Reconstruction(Intensity(kind="window", low=0.0, high=1.0, depth="float32"))
    floats.update(x, x + 1e-6)
    assert floats.compute().identical == 1
