"""ST-LPIPS against the formula, computed plainly from the published files, and against what it is for."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsem.nets.perceptual import PACKAGE, STLPIPS, load_stlpips
from zsem.nets.weights import packaged
from zsem.values.draws import normal
from zsem.values.errors import ZsemError

# c: convolution of a kernel with padding, b: blur and stride, r: ReLU, m: maximum over a window; as in the authors'
# invariant_networks.py, the layers that are compared one a line
LAYERS = {
    "alex": ("c11p2 b r", "m3 b c5p2 r", "m3 b c3p1 r", "c3p1 r", "c3p1 r"),
    "vgg": ("c3p1 r c3p1 r", *["m2 b c3p1 r c3p1 r"], *["m2 b c3p1 r c3p1 r c3p1 r"] * 3),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, STLPIPS]:
    return {"alex": load_stlpips(), "vgg": load_stlpips(trunk="vgg")}


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Soft coloured shapes, two images of 72 x 80 in [-1, 1]."""
    coarse = normal([(0,), (1,)], (3, 9, 10))
    return F.interpolate(coarse, (72, 80), mode="bicubic").clamp(-1, 1)


def weights(trunk: str) -> Path:
    return packaged(PACKAGE, f"weights/vST0.0/{trunk}_shift_tolerant.pth", what="ST-LPIPS")


def noise(image: Tensor, deviation: float) -> Tensor:
    names = [(2, i) for i in range(len(image))]
    return image + deviation * normal(names, tuple(image.shape[1:]))


def blurred(image: Tensor, times: int) -> Tensor:
    for _ in range(times):
        image = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return image


def plain(trunk: str, x: Tensor, y: Tensor) -> list[float]:
    """The distance in float64, straight from the weights of the published file."""
    state = torch.load(weights(trunk), map_location="cpu", weights_only=True)
    state = {name: tensor.double() for name, tensor in state.items()}

    def blur(h: Tensor) -> Tensor:
        for dim in (2, 3):
            n = h.shape[dim]
            mirrored = [2, 1, *range(n), n - 2, n - 3]
            h = h.index_select(dim, torch.tensor(mirrored))
            left, middle, right = (h.narrow(dim, start, n + 2) for start in range(3))
            h = (left + 2 * middle + right) / 4
        return h[:, :, ::2, ::2]

    def run(images: Tensor) -> list[Tensor]:
        rgb = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).double()[:, :, None, None]
        h, out, number = (images.double() - rgb[0]) / rgb[1], [], 0
        for part, layers in enumerate(LAYERS[trunk], 1):
            for layer in layers.split():
                if layer[0] == "c":
                    name = f"net.slice{part}.{number}"
                    h = F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=int(layer[-1]))
                elif layer[0] == "m":
                    h = F.max_pool2d(h, int(layer[1]), 1)
                else:
                    h = blur(h) if layer == "b" else h.clamp(min=0)
                number += 1
            out.append(h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return out

    total = torch.zeros(len(x)).double()
    for i, (a, b) in enumerate(zip(run(x), run(y), strict=True)):
        channels = state[f"lin{i}.model.1.weight"][0, :, 0, 0]
        total += torch.einsum("bchw,c->b", (a - b) ** 2, channels) / (a.shape[2] * a.shape[3])
    return total.tolist()


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_the_distance_is_the_published_one(networks, trunk, image):
    for other in (noise(image, 0.2), blurred(image, 2), image.flip(0)):
        found = networks[trunk](image, other)
        assert found.tolist() == pytest.approx(plain(trunk, image, other), rel=1e-4)
        torch.testing.assert_close(networks[trunk](other, image), found, rtol=1e-5, atol=0)
        assert found.min() > 0.01


def test_it_grows_with_noise_and_blur_from_0_for_equal_images(networks, image):
    edges = image.sign()
    for trunk, original, changed in (
        ("alex", image, [noise(image, deviation) for deviation in (0.05, 0.1, 0.2, 0.4)]),
        ("alex", edges, [blurred(edges, times) for times in (1, 2, 4, 8)]),
        ("vgg", edges, [blurred(edges, times) for times in (1, 4)]),
    ):
        assert networks[trunk](original, original).tolist() == [0, 0]
        distances = torch.stack([networks[trunk](original, other) for other in changed])
        assert (distances.diff(dim=0) > 0).all() and (distances[0] > 0).all()


def test_a_shift_by_a_pixel_is_hardly_seen(networks, image):
    """Noise of the same squared error looks at least five times as bad."""
    edges = image.sign()
    before, after = edges[..., :-1], edges[..., 1:]
    error = (before - after).square().mean()
    shifted, noisy = networks["alex"](before, after), networks["alex"](before, noise(before, float(error.sqrt())))
    assert (5 * shifted < noisy).all()


def test_small_and_grey_images_are_made_larger_and_coloured(networks, image):
    network = networks["alex"]
    small, other = image[:, :, :16, :20], image[:, :, 20:36, :20]
    larger = (F.interpolate(part, (64, 80), mode="bilinear", align_corners=False) for part in (small, other))
    torch.testing.assert_close(network(small, other), network(*larger))
    grey = image[:, :1], image[:, 1:2]
    torch.testing.assert_close(network(*grey), network(*(part.repeat(1, 3, 1, 1) for part in grey)))
    assert network(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64) + 0.1).item() > 0


def test_gradients_are_finite_even_where_images_are_equal(networks, image):
    image = image.clone().requires_grad_()
    networks["alex"](image, image.detach()).sum().backward()
    assert image.grad is not None and image.grad.isfinite().all()
    networks["alex"](image, noise(image.detach(), 0.1)).sum().backward()
    assert image.grad.abs().sum() > 0


def test_what_is_no_pair_is_refused(networks):
    with pytest.raises((ValueError, TypeError)):
        networks["alex"](torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 65))
    with pytest.raises(ValueError, match="grey or RGB"):
        networks["alex"](torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64))


def test_the_other_trunks_weights_are_named():
    with pytest.raises(ZsemError, match=r"vgg_shift_tolerant\.pth does not hold an ST-LPIPS with the trunk 'alex'"):
        load_stlpips(weights("vgg"))
