"""Shift-tolerant LPIPS (ST-LPIPS, 2207.13686): how different two aligned images look to people.

The weights are those of the package stlpips-pytorch, whose code is not imported. It is not LPIPS (1801.03924), and
figures of the two cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.weights import load_weights, packaged

PACKAGE = "stlpips_pytorch"
SMALLEST = 64
"""Shorter side of an image, pixels: the metric was trained on patches of 64."""

Trunk = Literal["alex", "vgg"]

WIDTHS: dict[Trunk, tuple[int, ...]] = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
"""Channels of the five layers that are compared."""

STARTS: dict[Trunk, tuple[int, ...]] = {"alex": (0, 3, 7, 11, 13), "vgg": (0, 4, 10, 18, 26)}
"""Number of the first layer of each slice, by which its parameters are named."""


class Blur(nn.Module):
    """Every second pixel of the image filtered with [1, 2, 1] / 4 both ways; two pixels are reflected at each edge."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", line.outer(line).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.get_buffer("filt"), stride=2, groups=x.shape[1])


class Scaling(nn.Module):
    """From [-1, 1] to the mean 0 and deviation 1 of ImageNet, which the trunks were trained on."""

    def __init__(self) -> None:
        super().__init__()
        for name, rgb in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(rgb)[None, :, None, None])

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (x - self.get_buffer("shift")) / self.get_buffer("scale")


class Weighing(nn.Module):
    """A weight for every channel of a layer; dropout, which only training needs, keeps the published names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        return self.model(x)


class STLPIPS(nn.Module):
    """ST-LPIPS (2207.13686) in inference: d(x, y) = sum_l mean_hw w_l . (f_l(x) - f_l(y))^2.

    f_l: features of layer l of an ImageNet trunk, divided by their length over channels at every place (1801.03924,
    eq. 1); w_l: learned weights of the channels. Against shifts by a pixel or two, the trunks stride only where they
    blur. The distance is symmetric, 0 for equal images, and differentiable in both.

    trunk: "alex" (AlexNet, quick) or "vgg" (VGG-16, several times slower).
    """

    def __init__(self, *, trunk: Trunk = "alex") -> None:
        super().__init__()
        self.scaling_layer = Scaling()
        layers = list(alexnet() if trunk == "alex" else vgg16())
        starts = STARTS[trunk]
        self.net = nn.ModuleDict()
        for i, (start, end) in enumerate(zip(starts, (*starts[1:], len(layers)), strict=True), 1):
            named = nn.Sequential()
            for number in range(start, end):
                named.add_module(str(number), layers[number])
            self.net[f"slice{i}"] = named
        for i, width in enumerate(WIDTHS[trunk]):
            self.add_module(f"lin{i}", Weighing(width))

    def forward(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Distance of every pair of images in [-1, 1], grey or RGB, of any size.

        Images with a side under 64 pixels are first resized (bilinear) so that this side has 64, and the distance is
        that of the larger images. Raises ValueError where the shapes differ or there are not 1 or 3 channels.
        """
        if x.shape != y.shape or x.shape[1] not in (1, 3):
            raise ValueError(f"pairs of grey or RGB images are compared, not {tuple(x.shape)} and {tuple(y.shape)}")
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for i, (a, b) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            total = total + self.get_submodule(f"lin{i}")((a - b).square()).mean((1, 2, 3))
        return total

    def features(self, images: Float[Tensor, "b c h w"]) -> Iterator[Float[Tensor, "b c2 h2 w2"]]:
        """The five layers' features, of length 1 over channels at every place (or 0, where nothing is active)."""
        h = self.scaling_layer(at_least(SMALLEST, images).expand(-1, 3, -1, -1))
        for part in self.net.values():
            h = part(h)
            yield F.normalize(h, dim=1, eps=1e-10)


def at_least(side: int, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Images whose shorter side has at least so many pixels; smaller ones are resized, in proportion."""
    shorter = min(images.shape[2:])
    if shorter >= side:
        return images
    size = [round(n * side / shorter) for n in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear")


def alexnet() -> Iterator[nn.Module]:
    """AlexNet's convolutions without strides; the first is blurred before its ReLU."""
    yield from (nn.Conv2d(3, 64, 11, padding=2), Blur(64), nn.ReLU(), nn.MaxPool2d(3, 1), Blur(64))
    yield from (nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 1), Blur(192))
    for before, after in ((192, 384), (384, 256), (256, 256)):
        yield from (nn.Conv2d(before, after, 3, padding=1), nn.ReLU())


def vgg16() -> Iterator[nn.Module]:
    """VGG-16's convolutions; pooling strides only where it blurs."""
    before = 3
    for width, number in zip(WIDTHS["vgg"], (2, 2, 3, 3, 3), strict=True):
        if before > 3:
            yield from (nn.MaxPool2d(2, 1), Blur(before))
        for _ in range(number):
            yield from (nn.Conv2d(before, width, 3, padding=1), nn.ReLU())
            before = width


def load_stlpips(path: str | Path | None = None, *, trunk: Trunk = "alex") -> STLPIPS:
    """ST-LPIPS with its weights, ready to judge.

    path: the weights (a PyTorch state dict); by default those of the package stlpips-pytorch.
    trunk: "alex" or "vgg"; the file must be that network's.

    Raises ZsemError where the package is missing, or the file is missing, damaged or another network's.
    """
    if path is None:
        path = packaged(PACKAGE, f"weights/vST0.0/{trunk}_shift_tolerant.pth", what="ST-LPIPS")
    return load_weights(STLPIPS(trunk=trunk), path, what=f"an ST-LPIPS with the trunk {trunk!r}")
