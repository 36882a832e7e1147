"""How close a decoded image is to the original: MSE, PSNR, SSIM and the share of identical uint8 pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from zsem.data.intensity import EIGHT_BITS, Intensity

WINDOW, SIGMA = 11, 1.5
"""SSIM's Gaussian window in pixels and its standard deviation (Wang et al. 2004, section III-C)."""

K1, K2 = 0.01, 0.03
"""SSIM's stabilisers (Wang et al. 2004); squared they are C1 and C2 for a dynamic range of 1."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionFigures:
    """What `Reconstruction` has counted, over `n` images."""

    n: int
    """Number of images."""
    mse: float
    """Mean squared error on the [0, 1] scale, of the decoded values as they are: not rounded, not clipped."""
    psnr: float
    """Peak signal-to-noise ratio of that mean, -10 log10(mse), in dB; infinite where mse is 0."""
    ssim: float
    """Structural similarity, averaged over positions, channels and images; 1 for equal images."""
    identical: float
    """Share of pixels (each channel counts) that equal the original at its own depth, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class ImageErrors:
    """The same of every image by itself."""

    mse: Float64[Tensor, " b"]
    """Mean squared error on the [0, 1] scale."""
    ssim: Float64[Tensor, " b"]
    """Structural similarity."""
    identical: Int64[Tensor, " b"]
    """Pixels (each channel counts) that equal the original at its own depth."""
    pixels: int
    """Pixels that an image has."""


def image_errors(
    images: Float[Tensor, "b c h w"], decoded: Float[Tensor, "b c h w"], intensity: Intensity = EIGHT_BITS
) -> ImageErrors:
    """Errors of one batch, image by image.

    images: the originals in [-1, 1], as `intensity` brings them there.
    decoded: what stands for them, nominally in [-1, 1]. It may lie on another device or have another dtype.

    Raises ValueError where the shapes differ.
    """
    if images.shape != decoded.shape:
        raise ValueError(f"originals {tuple(images.shape)} and decoded {tuple(decoded.shape)} differ in shape")
    # The CPU has float64 on every machine, which errors of 1e-15 need
    images, decoded = (x.detach().to("cpu", torch.float64) for x in (images, decoded))
    x, y = (images + 1) / 2, (decoded + 1) / 2
    return ImageErrors(
        mse=(x - y).square().mean(dim=(1, 2, 3)),
        ssim=ssim(x, y),
        identical=intensity.identical(images, decoded).sum(dim=(1, 2, 3)),
        pixels=x[0].numel(),
    )


class Reconstruction:
    """Running reconstruction figures; a partial count of one process can be merged into that of another."""

    def __init__(self, intensity: Intensity = EIGHT_BITS) -> None:
        """intensity: of the images, which tells what is identical: by default uint8."""
        self._intensity = intensity
        self._images = 0
        self._mse = 0.0
        self._ssim = 0.0
        self._identical = 0
        self._pixels = 0

    def update(self, images: Float[Tensor, "b c h w"], decoded: Float[Tensor, "b c h w"]) -> None:
        """Count one batch; arguments and errors are those of `image_errors`."""
        errors = image_errors(images, decoded, self._intensity)
        self._images += len(images)
        self._mse += errors.mse.sum().item()
        self._ssim += errors.ssim.sum().item()
        self._identical += int(errors.identical.sum())
        self._pixels += len(images) * errors.pixels

    def merge(self, other: Reconstruction) -> None:
        """Add what `other` has counted; `other` stays as it is."""
        self._images += other._images
        self._mse += other._mse
        self._ssim += other._ssim
        self._identical += other._identical
        self._pixels += other._pixels

    def compute(self) -> ReconstructionFigures:
        """The figures over everything counted so far; every image has the same weight.

        Raises ValueError where nothing has been counted.
        """
        if not self._images:
            raise ValueError("no images have been counted yet")
        mse = self._mse / self._images
        return ReconstructionFigures(
            n=self._images,
            mse=mse,
            psnr=math.inf if mse == 0 else -10 * math.log10(mse),
            ssim=self._ssim / self._images,
            identical=self._identical / self._pixels,
        )


def ssim(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of images in [0, 1], one value for each pair (Wang et al. 2004, eq. 13).

    Gaussian window of 11 pixels, sigma 1.5, over positions where the whole window lies in the image; channels are
    averaged. An image with a side under 11 pixels gets the largest odd window that fits. Give float64: variances are
    differences of nearly equal numbers.
    """
    channels, side = x.shape[1], min(x.shape[2:])
    window = min(WINDOW, side - 1 + side % 2)
    offsets = torch.arange(window, dtype=x.dtype, device=x.device) - window // 2
    gauss = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    gauss = (gauss / gauss.sum()).expand(channels, 1, 1, window)

    def mean(values: Tensor) -> Tensor:
        rows = F.conv2d(values, gauss, groups=channels)
        return F.conv2d(rows, gauss.mT, groups=channels)

    mean_x, mean_y = mean(x), mean(y)
    var_x = mean(x * x) - mean_x**2
    var_y = mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))
