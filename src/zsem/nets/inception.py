"""Inception-v3 as the Frechet inception distance uses it (FID, 1706.08500), with weights that the user has.

The weights are TensorFlow's of 2015, in the file pt_inception-2015-12-05-6726825d.pth, which pytorch-fid publishes;
nothing here downloads it. The network differs from later Inception-v3: average pools leave out the padding, and the
last block has a maximum pool.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.weights import load_weights

SIDE = 299
"""To which images are resized, pixels."""

AVERAGE = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
MAXIMUM = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
HALVE = partial(F.max_pool2d, kernel_size=3, stride=2)

Conv = tuple[str, int, tuple[int, int]]
"""Name, output channels and kernel of a convolution."""
Branch = list[list[Conv]]
"""Steps that follow each other; convolutions of one step see the same, and their outputs are joined."""


def conv(name: str, channels: int, high: int = 1, wide: int | None = None) -> list[Conv]:
    """A step of one convolution, with a square kernel unless `wide` is given."""
    return [(name, channels, (high, high if wide is None else wide))]


class NormedConv(nn.Module):
    """Convolution without bias, batch normalisation and ReLU. padded: keeps the size."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int], *, stride: int = 1, padded: bool = False
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """An Inception block: branches and a pool of one input, joined over channels (1512.00567, figures 5 to 7 and 10).

    pooled: channels that the pool is brought to; 0 leaves it as it is.
    halve: every branch ends with a stride of 2, and the pool has it too.
    last: the network's last block, whose pool takes maxima.
    """

    def __init__(
        self, in_channels: int, *branches: Branch, pooled: int = 0, halve: bool = False, last: bool = False
    ) -> None:
        super().__init__()
        self.pool = HALVE if halve else MAXIMUM if last else AVERAGE
        self.names = [[[name for name, _, _ in step] for step in branch] for branch in branches]
        for branch in branches:
            width = in_channels
            for place, step in enumerate(branch, 1):
                strided = halve and place == len(branch)
                for name, out, kernel in step:
                    layer = NormedConv(width, out, kernel, stride=2 if strided else 1, padded=not strided)
                    self.add_module(name, layer)
                width = sum(out for _, out, _ in step)
        self.branch_pool = NormedConv(in_channels, pooled, (1, 1)) if pooled else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        outputs = []
        for branch in self.names:
            h = x
            for step in branch:
                h = torch.cat([self.get_submodule(name)(h) for name in step], dim=1)
            outputs.append(h)
        return torch.cat([*outputs, self.branch_pool(self.pool(x))], dim=1)


def block_35(in_channels: int, pooled: int) -> Mixed:
    """A block of the grid of 35 x 35."""
    double = [conv("branch3x3dbl_1", 64), conv("branch3x3dbl_2", 96, 3), conv("branch3x3dbl_3", 96, 3)]
    five = [conv("branch5x5_1", 48), conv("branch5x5_2", 64, 5)]
    return Mixed(in_channels, [conv("branch1x1", 64)], five, double, pooled=pooled)


def block_17(width: int) -> Mixed:
    """A block of the grid of 17 x 17, with kernels of 7 in one direction."""
    seven = [conv("branch7x7_1", width), conv("branch7x7_2", width, 1, 7), conv("branch7x7_3", 192, 7, 1)]
    double = [
        conv("branch7x7dbl_1", width), conv("branch7x7dbl_2", width, 7, 1), conv("branch7x7dbl_3", width, 1, 7),
        conv("branch7x7dbl_4", width, 7, 1), conv("branch7x7dbl_5", 192, 1, 7),
    ]  # fmt: skip
    return Mixed(768, [conv("branch1x1", 192)], seven, double, pooled=192)


def block_8(in_channels: int, *, last: bool = False) -> Mixed:
    """A block of the grid of 8 x 8, whose branches fork at their end."""

    def fork(name: str) -> list[Conv]:
        return conv(f"{name}a", 384, 1, 3) + conv(f"{name}b", 384, 3, 1)

    three = [conv("branch3x3_1", 384), fork("branch3x3_2")]
    double = [conv("branch3x3dbl_1", 448), conv("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")]
    return Mixed(in_channels, [conv("branch1x1", 320)], three, double, pooled=192, last=last)


def to_17() -> Mixed:
    """From 35 x 35 to 17 x 17."""
    double = [conv("branch3x3dbl_1", 64), conv("branch3x3dbl_2", 96, 3), conv("branch3x3dbl_3", 96, 3)]
    return Mixed(288, [conv("branch3x3", 384, 3)], double, halve=True)


def to_8() -> Mixed:
    """From 17 x 17 to 8 x 8."""
    seven = [
        conv("branch7x7x3_1", 192), conv("branch7x7x3_2", 192, 1, 7), conv("branch7x7x3_3", 192, 7, 1),
        conv("branch7x7x3_4", 192, 3),
    ]  # fmt: skip
    return Mixed(768, [conv("branch3x3_1", 192), conv("branch3x3_2", 320, 3)], seven, halve=True)


class InceptionFID(nn.Module):
    """The FID variant of Inception-v3 up to its 2,048 pooled features, in inference; the classifier is left out."""

    frechet_name, kid_name = "FID", "KID"
    components = 2048
    """Principal components that a Frechet distance is taken on: all, as FID is defined."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = NormedConv(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = NormedConv(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = NormedConv(32, 64, (3, 3), padded=True)
        self.Conv2d_3b_1x1 = NormedConv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = NormedConv(80, 192, (3, 3))
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_35(192, 32), block_35(256, 64), block_35(288, 64)
        self.Mixed_6a = to_17()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (block_17(width) for width in (128, 160, 160, 192))
        self.Mixed_7a = to_8()
        self.Mixed_7b, self.Mixed_7c = block_8(1280), block_8(2048, last=True)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2048"]:
        """Features of images in [-1, 1], grey or RGB, of any size.

        They are resized to 299 pixels as pytorch-fid does it: bilinear, without smoothing what gets smaller.
        """
        x = images
        if x.shape[2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear")
        h = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x.expand(-1, 3, -1, -1))))
        h = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(HALVE(h)))
        h = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(HALVE(h))))
        h = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(h)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(h))).mean((2, 3))


def load_inception(path: str | Path) -> InceptionFID:
    """Inception of FID with its published weights, ready to judge.

    path: the file pt_inception-2015-12-05-6726825d.pth.

    Raises ZsemError where the file is missing, damaged or another network's.
    """
    return load_weights(InceptionFID(), path, what="the Inception network of FID", unused=("fc.",))
