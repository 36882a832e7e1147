"""Faces and their landmarks, by the small networks of face-api: https://github.com/vladmandic/face-api (MIT).

The weights come from the npm package @vladmandic/face-api 1.7.15, which the user unpacks; parameters bear the names
that they have there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zsem.nets.tfjs import read_weights
from zsem.values.errors import ZsemError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

DETECTOR = "tiny_face_detector_model"
LANDMARKS = "face_landmark_68_model"
MEND = (
    "get the weights with `npm pack @vladmandic/face-api@1.7.15`, unpack the file with "
    "`tar xzf vladmandic-face-api-1.7.15.tgz` and give the folder: `--models package/model`"
)
SIDES = (224, 416, 832)
"""Sizes at which faces are looked for: a detector misses those that are very large or very small for its boxes."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels; 0 is the left edge of the leftmost pixel, and the box may leave the image."""


@dataclass(frozen=True, eq=False)
class Face:
    """A face in an image.

    score: how sure the detector is, 0..1.
    box: around brows, eyes, nose, mouth and chin.
    landmarks: x, y of the 68 points of the iBUG scheme in pixels, where 0 is the *centre* of the leftmost or topmost
        pixel: jaw 0-16, brows 17-26, nose 27-35, eyes 36-41 and 42-47, mouth 48-67, all from the picture's left on.
    """

    score: float
    box: Box
    landmarks: Float[Tensor, "68 2"]


class FaceFinder(nn.Module):
    """Detector and landmarks together: all faces of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = TinyFaceDetector()
        self.landmarks = LandmarkNet()

    @classmethod
    def load(cls, folder: str | Path) -> FaceFinder:
        """With the weights in `folder`, the package's folder `model`.

        ZsemError: the folder or a file in it is missing, damaged, or holds other networks; says how to get them.
        """
        folder, finder = Path(folder), cls()
        if not folder.is_dir():
            raise ZsemError(f"there is no folder {folder} with the weights of the face networks; {MEND}")
        _load(finder.detector, folder / f"{DETECTOR}-weights_manifest.json")
        _load(finder.landmarks, folder / f"{LANDMARKS}-weights_manifest.json")
        return finder.eval().requires_grad_(False)

    @torch.no_grad()
    def find(self, pixels: UInt8[Tensor, "3 h w"], *, min_score: float = 0.5, max_overlap: float = 0.4) -> list[Face]:
        """The faces in an RGB image of any size that score above `min_score`, surest first.

        What has its mouth above its eyes, from the face's own view, is none: the landmarks of a wrong detection.
        max_overlap: of two boxes that share more (intersection over union), the surer one stays.
        """
        largest = max(SIDES[1], *pixels.shape[1:])  # more than that would only enlarge the image
        seen = [self.detector.detect(pixels, size=size, min_score=min_score) for size in SIDES if size <= largest]
        boxes, scores = (torch.cat(parts) for parts in zip(*seen, strict=True))
        faces = []
        for place in surest(boxes, scores, max_overlap):
            left, top, right, bottom = boxes[place].tolist()
            box = (left, top, right, bottom)
            landmarks = self.landmarks.locate(pixels, box)
            if landmarks is not None and _upright(landmarks):
                faces.append(Face(float(scores[place]), box, landmarks))
        return faces


class TinyFaceDetector(nn.Module):
    """A tiny YOLOv2 (1612.08242) of separable convolutions: 5 boxes around every cell of 32 pixels."""

    MEAN = (117.001, 114.697, 97.404)
    WIDTHS = (16, 32, 64, 128, 256, 512)
    # width and height of the five boxes in cells
    ANCHORS = (
        (1.603231, 2.094468),
        (6.041143, 7.080126),
        (2.882459, 3.518061),
        (4.266906, 5.178857),
        (9.041765, 10.66308),
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = Convolution(3, self.WIDTHS[0], 3)
        for number, (before, after) in enumerate(zip(self.WIDTHS[:-1], self.WIDTHS[1:], strict=True), start=1):
            self.add_module(f"conv{number}", SeparableConvolution(before, after))
        # There is no conv6 and no conv7: the package keeps the numbers of the larger network
        self.conv8 = Convolution(self.WIDTHS[-1], 5 * len(self.ANCHORS), 1)

    def forward(self, x: Float[Tensor, "b 3 size size"]) -> Float[Tensor, "b size/32 size/32 5 5"]:
        """For RGB in 0..255, every cell and every anchor: x, y, width, height, score, all before their sigmoid or exp.

        The size must be a multiple of 32.
        """
        h = F.leaky_relu(self.conv0(_normalise(x, self.MEAN)), 0.1)
        for number in range(1, len(self.WIDTHS)):
            h = F.max_pool2d(h, 2, ceil_mode=True)
            h = F.leaky_relu(self.get_submodule(f"conv{number}")(h), 0.1)
        h = F.max_pool2d(F.pad(h, (0, 1, 0, 1), value=-torch.inf), 2, stride=1)
        return self.conv8(h).permute(0, 2, 3, 1).unflatten(3, (len(self.ANCHORS), 5))

    def detect(
        self, pixels: UInt8[Tensor, "3 h w"], *, size: int = 416, min_score: float = 0.5
    ) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"]]:
        """Boxes (left, top, right, bottom in pixels) that score above `min_score`, and their scores; many overlap.

        size: side in pixels to which the longer side of the image is brought, a multiple of 32.
        """
        height, width = pixels.shape[1:]
        small_height, small_width = (max(1, round(side * size / max(height, width))) for side in (height, width))
        small = _resize(pixels, small_height, small_width)
        cells = self(F.pad(small, (0, size - small_width, 0, size - small_height))[None])[0]
        rows, columns, anchors = torch.nonzero(cells[..., 4].sigmoid() > min_score, as_tuple=True)
        raw = cells[rows, columns, anchors]
        centre = raw[:, :2].sigmoid() + torch.stack([columns, rows], 1)
        half = raw[:, 2:4].exp() * torch.tensor(self.ANCHORS)[anchors] / 2
        cell = torch.tensor([width / small_width, height / small_height]) * (size / len(cells))
        return torch.cat([centre - half, centre + half], 1) * cell.repeat(2), raw[:, 4].sigmoid()


class LandmarkNet(nn.Module):
    """68 landmarks of a cropped face: four blocks of densely added separable convolutions, and a linear layer."""

    MEAN = (122.782, 117.001, 104.298)
    SIZE = 112
    POINTS = 68
    # Photos and their mirror images disagree by twice as many of the 112 pixels: the network answers too far left, and
    # as it treats rows like columns (its padding is at the right and at the bottom), too far up
    LAG = 0.74

    def __init__(self) -> None:
        super().__init__()
        self.dense0 = DenseBlock(3, 32, first=True)
        self.dense1 = DenseBlock(32, 64)
        self.dense2 = DenseBlock(64, 128)
        self.dense3 = DenseBlock(128, 256)
        self.fc = Linear(256, 2 * self.POINTS)

    def forward(self, x: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b 68 2"]:
        """x, y as shares of the crop's side, for RGB in 0..255."""
        h = _normalise(x, self.MEAN)
        for block in (self.dense0, self.dense1, self.dense2, self.dense3):
            h = block(h)
        return self.fc(h.mean((2, 3))).unflatten(1, (self.POINTS, 2))

    def locate(self, pixels: UInt8[Tensor, "3 h w"], box: Box) -> Float[Tensor, "68 2"] | None:
        """The landmarks of the face in `box`, in pixels of the image; None where the box holds no whole pixel."""
        height, width = pixels.shape[1:]
        left, right = (int(min(max(edge, 0), width)) for edge in box[::2])
        top, bottom = (int(min(max(edge, 0), height)) for edge in box[1::2])
        if right <= left or bottom <= top:
            return None
        crop = pixels[:, top:bottom, left:right]
        side = max(crop.shape[1:])
        beside, above = (side - (right - left)) // 2, (side - (bottom - top)) // 2
        square = F.pad(crop, (beside, side - (right - left) - beside, above, side - (bottom - top) - above))
        shares = self(_resize(square, self.SIZE, self.SIZE)[None])[0]
        points = (shares + self.LAG / self.SIZE) * side + torch.tensor([left - beside, top - above])
        return points - 0.5  # from edges to centres of pixels


class DenseBlock(nn.Module):
    """Half the size; each of four convolutions sees the sum of those before it."""

    def __init__(self, before: int, after: int, *, first: bool = False) -> None:
        super().__init__()
        self.conv0 = Convolution(before, after, 3, stride=2) if first else SeparableConvolution(before, after, stride=2)
        self.conv1 = SeparableConvolution(after, after)
        self.conv2 = SeparableConvolution(after, after)
        self.conv3 = SeparableConvolution(after, after)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h/2 w/2"]:
        # TensorFlow pads an even side at its end alone when the stride is 2
        total = F.relu(self.conv0(F.pad(x, (0, 1, 0, 1))))
        for conv in (self.conv1, self.conv2, self.conv3):
            total = total + conv(F.relu(total))
        return F.relu(total)


class Convolution(nn.Module):
    """A convolution without padding, with the package's names of parameters."""

    def __init__(self, before: int, after: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.filters = nn.Parameter(torch.zeros(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return F.conv2d(x, self.filters, self.bias, self.stride)


class SeparableConvolution(nn.Module):
    """3 x 3 within each channel, then 1 x 1 across them. With stride 1 the size stays; with 2, pad before."""

    def __init__(self, before: int, after: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise_filter = nn.Parameter(torch.zeros(before, 1, 3, 3))
        self.pointwise_filter = nn.Parameter(torch.zeros(after, before, 1, 1))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        padding = 1 if self.stride == 1 else 0
        h = F.conv2d(x, self.depthwise_filter, None, self.stride, padding, groups=x.shape[1])
        return F.conv2d(h, self.pointwise_filter, self.bias)


class Linear(nn.Module):
    """A linear layer with the package's names of parameters."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(after, before))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b c2"]:
        return F.linear(x, self.weights, self.bias)


def surest(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], max_overlap: float) -> list[int]:
    """Non-maximum suppression: the places of the boxes that overlap no surer kept one by more, surest first.

    The overlap of two boxes (left, top, right, bottom) is the area of their intersection over that of their union.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = scores.argsort(descending=True, stable=True)
    kept: list[int] = []
    while len(order):
        first, order = int(order[0]), order[1:]
        kept.append(first)
        inner = torch.minimum(boxes[first, 2:], boxes[order, 2:]) - torch.maximum(boxes[first, :2], boxes[order, :2])
        shared = inner.clamp(min=0).prod(1)
        order = order[shared / (area[first] + area[order] - shared) <= max_overlap]
    return kept


def _upright(landmarks: Tensor) -> bool:
    """Whether a quarter turn clockwise leads from the line of the eyes towards the mouth."""
    left, right, mouth = landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[48:60].mean(0)
    across, down = right - left, mouth - (left + right) / 2
    return bool(across[0] * down[1] - across[1] * down[0] > 0)


def _normalise(x: Tensor, mean: tuple[float, float, float]) -> Tensor:
    return (x - torch.tensor(mean, device=x.device)[:, None, None]) / 255


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Antialiased; float32 in 0..255."""
    return F.interpolate(pixels[None].float(), (height, width), mode="bilinear", antialias=True)[0]


def _load(network: nn.Module, manifest: Path) -> None:
    """Fill `network`; ZsemError unless the file has exactly its tensors."""
    weights = {name.replace("/", "."): tensor for name, tensor in read_weights(manifest, MEND).items()}
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wrong = [f"{name} is missing" for name in expected if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in expected]
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if name in expected}
    wrong += [f"{name} is {shape}, not {expected[name]}" for name, shape in shapes.items() if shape != expected[name]]
    if wrong:
        raise ZsemError(f"{manifest} is not the network of face-api 1.7.15 ({wrong[0]}); {MEND}")
    network.load_state_dict(weights)
