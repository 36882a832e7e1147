"""The Inception of FID against a forward pass written from the published description, with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsem.nets.inception import load_inception
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

PARAMETERS = 21_785_568  # of Inception-v3 without auxiliary and final classifier, as is well known


class Reference:
    """Inception-v3 as pytorch-fid patches torchvision's, layer by layer; makes up the weights that it asks for.

    Layers bear torchvision's names; a kernel is written as `high x wide`, with "v" where nothing is padded and "s" for
    a stride of 2.
    """

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.rng = generator(0)

    def conv(self, x: Tensor, name: str, out: int, kernel: str) -> Tensor:
        high, wide = (int(n) for n in kernel[:3].split("x"))
        if f"{name}.conv.weight" not in self.state:
            self.invent(name, (out, x.shape[1], high, wide))
        w = {key: self.state[f"{name}.{key}"].double() for key in (
            "conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
        )}  # fmt: skip
        padding = (0, 0) if kernel[3:] else (high // 2, wide // 2)
        h = F.conv2d(x, w["conv.weight"], stride=2 if "s" in kernel else 1, padding=padding)
        mean, var, scale, shift = (
            w[f"bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((h - mean) / (var + 0.001).sqrt() * scale + shift).clamp(min=0)

    def invent(self, name: str, shape: tuple[int, ...]) -> None:
        values = {
            "conv.weight": self.rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape),
            "bn.weight": self.rng.uniform(0.8, 1.2, shape[0]),
            "bn.bias": self.rng.uniform(-0.2, 0.4, shape[0]),
            "bn.running_mean": self.rng.uniform(-0.2, 0.2, shape[0]),
            "bn.running_var": self.rng.uniform(0.5, 1.5, shape[0]),
        }
        self.state |= {f"{name}.{key}": torch.from_numpy(value.astype(np.float32)) for key, value in values.items()}

    def chain(self, x: Tensor, block: str, *layers: tuple[str, int, str]) -> Tensor:
        for name, out, kernel in layers:
            x = self.conv(x, f"{block}.{name}", out, kernel)
        return x

    @staticmethod
    def mean_of_what_is_there(x: Tensor) -> Tensor:
        """Windows of 3 x 3, divided by the pixels in the image and not by 9."""
        windows = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype)
        total = F.conv2d(x, windows, padding=1, groups=x.shape[1])
        return total / F.conv2d(torch.ones_like(x), windows, padding=1, groups=x.shape[1])

    def a(self, x: Tensor, m: str, pooled: int) -> Tensor:
        double = (("branch3x3dbl_1", 64, "1x1"), ("branch3x3dbl_2", 96, "3x3"), ("branch3x3dbl_3", 96, "3x3"))
        return torch.cat([
            self.chain(x, m, ("branch1x1", 64, "1x1")),
            self.chain(x, m, ("branch5x5_1", 48, "1x1"), ("branch5x5_2", 64, "5x5")),
            self.chain(x, m, *double),
            self.chain(self.mean_of_what_is_there(x), m, ("branch_pool", pooled, "1x1")),
        ], 1)  # fmt: skip

    def b(self, x: Tensor, m: str) -> Tensor:
        double = (("branch3x3dbl_1", 64, "1x1"), ("branch3x3dbl_2", 96, "3x3"), ("branch3x3dbl_3", 96, "3x3s"))
        return torch.cat([
            self.chain(x, m, ("branch3x3", 384, "3x3s")), self.chain(x, m, *double), F.max_pool2d(x, 3, 2)
        ], 1)  # fmt: skip

    def c(self, x: Tensor, m: str, n: int) -> Tensor:
        double = [("1", n, "1x1"), ("2", n, "7x1"), ("3", n, "1x7"), ("4", n, "7x1"), ("5", 192, "1x7")]
        return torch.cat([
            self.chain(x, m, ("branch1x1", 192, "1x1")),
            self.chain(x, m, ("branch7x7_1", n, "1x1"), ("branch7x7_2", n, "1x7"), ("branch7x7_3", 192, "7x1")),
            self.chain(x, m, *((f"branch7x7dbl_{place}", out, kernel) for place, out, kernel in double)),
            self.chain(self.mean_of_what_is_there(x), m, ("branch_pool", 192, "1x1")),
        ], 1)  # fmt: skip

    def d(self, x: Tensor, m: str) -> Tensor:
        seven = [("1", 192, "1x1"), ("2", 192, "1x7"), ("3", 192, "7x1"), ("4", 192, "3x3s")]
        return torch.cat([
            self.chain(x, m, ("branch3x3_1", 192, "1x1"), ("branch3x3_2", 320, "3x3s")),
            self.chain(x, m, *((f"branch7x7x3_{place}", out, kernel) for place, out, kernel in seven)),
            F.max_pool2d(x, 3, 2),
        ], 1)  # fmt: skip

    def e(self, x: Tensor, m: str, pool: Tensor) -> Tensor:
        three = self.chain(x, m, ("branch3x3_1", 384, "1x1"))
        double = self.chain(x, m, ("branch3x3dbl_1", 448, "1x1"), ("branch3x3dbl_2", 384, "3x3"))
        return torch.cat([
            self.chain(x, m, ("branch1x1", 320, "1x1")),
            self.chain(three, m, ("branch3x3_2a", 384, "1x3")),
            self.chain(three, m, ("branch3x3_2b", 384, "3x1")),
            self.chain(double, m, ("branch3x3dbl_3a", 384, "1x3")),
            self.chain(double, m, ("branch3x3dbl_3b", 384, "3x1")),
            self.chain(pool, m, ("branch_pool", 192, "1x1")),
        ], 1)  # fmt: skip

    def __call__(self, images: Tensor) -> Tensor:
        """Features of images [b, 3, 299, 299] in [-1, 1], float64."""
        h = self.conv(images.double(), "Conv2d_1a_3x3", 32, "3x3vs")
        h = self.conv(self.conv(h, "Conv2d_2a_3x3", 32, "3x3v"), "Conv2d_2b_3x3", 64, "3x3")
        h = self.conv(F.max_pool2d(h, 3, 2), "Conv2d_3b_1x1", 80, "1x1")
        h = F.max_pool2d(self.conv(h, "Conv2d_4a_3x3", 192, "3x3v"), 3, 2)
        h = self.a(self.a(self.a(h, "Mixed_5b", 32), "Mixed_5c", 64), "Mixed_5d", 64)
        h = self.b(h, "Mixed_6a")
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            h = self.c(h, name, width)
        h = self.d(h, "Mixed_7a")
        h = self.e(h, "Mixed_7b", self.mean_of_what_is_there(h))
        h = self.e(h, "Mixed_7c", F.max_pool2d(h, 3, 1, padding=1))
        return h.mean((2, 3))


def resized(images: Tensor, side: int = 299) -> Tensor:
    """Bilinear by the formula: corners of pixels aligned, nothing smoothed, places outside taken from the edge."""

    def weights(n: int) -> Tensor:
        places = ((torch.arange(side).double() + 0.5) * n / side - 0.5).clamp(0, n - 1)
        return (1 - (places[:, None] - torch.arange(n)).abs()).clamp(min=0)

    high, wide = (weights(n) for n in images.shape[2:])
    return high @ images.double() @ wide.mT


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.from_numpy(generator(1).uniform(-1, 1, (1, 3, 299, 299)).astype(np.float32))


@pytest.fixture(scope="module")
def expected(pictures) -> tuple[dict[str, Tensor], Tensor]:
    """Random weights under the published names, and features by them."""
    reference = Reference()
    features = reference(pictures)
    return reference.state, features


@pytest.fixture(scope="module")
def weights(expected, tmp_path_factory) -> Path:
    """A file as the published one: with the classifier of 1,008 classes, from before batches were counted."""
    path = tmp_path_factory.mktemp("weights") / "pt_inception.pth"
    torch.save({**expected[0], "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


@pytest.fixture(scope="module")
def network(weights):
    return load_inception(weights)


def test_features_are_those_of_the_published_network(network, pictures, expected):
    found = network(pictures).double()
    assert found.shape == (1, 2048) and expected[1].std() > 0.1
    torch.testing.assert_close(found, expected[1], atol=1e-3 * float(expected[1].std()), rtol=1e-4)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS


def test_images_are_resized_without_smoothing_and_grey_ones_get_three_channels(network, pictures):
    for images in (pictures[:, :, :64, :80], pictures.repeat(1, 1, 2, 1)[:, :, :400]):
        torch.testing.assert_close(network(images), network(resized(images).float()), rtol=1e-3, atol=1e-3)
    grey = pictures[:, :1]
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)), rtol=1e-5, atol=1e-5)


def test_weights_of_other_networks_are_named(expected, tmp_path):
    state, path = expected[0], tmp_path / "weights.pth"
    wrong = (
        {name: tensor for name, tensor in state.items() if name != "Mixed_7c.branch_pool.bn.weight"},
        {**state, "Mixed_5b.branch_pool.conv.weight": torch.zeros(64, 192, 1, 1)},  # as in torchvision's Mixed_5c
        {**state, "AuxLogits.fc.bias": torch.zeros(1000)},
    )
    for other in wrong:
        torch.save(other, path)
        with pytest.raises(ZsemError, match=r"weights\.pth does not hold the Inception network of FID"):
            load_inception(path)
