"""Aligned square crops of faces, by the recipe of CelebA-HQ (1710.10196, appendix C) and FFHQ (1812.04948).

Points are x, y in pixels of the upright image, where 0 is the centre of the leftmost or topmost pixel.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy.ndimage import gaussian_filter

from zsem.values.errors import ZsemError

SUPERSAMPLING = 4  # the recipe's 4096 pixels for crops of 1024
LEAST_SIDE = 4  # pixels; smaller squares have nothing to show, and no border to pad


def five_points(landmarks: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "5 2"]:
    """Eyes, tip of the nose, corners of the mouth, each from the picture's left on, of landmarks by the iBUG scheme.

    An eye is the mean of its six points.
    """
    return np.stack(
        [
            landmarks[36:42].mean(0),
            landmarks[42:48].mean(0),
            landmarks[30],
            landmarks[48],
            landmarks[54],
        ]
    )


def ffhq_quad(landmarks: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "4 2"]:
    """The square around a face: its corners top left, bottom left, bottom right, top right of the upright face.

    landmarks: 68 by the iBUG scheme, or five: left eye, right eye, nose, left and right corner of the mouth, where left
        is the picture's left side. The nose is not used.

    With e from eye to eye and m from the eyes to the mouth, the square's x axis runs along e plus m turned by a right
    angle to e's side; its side is the larger of 4 |e| and 3.6 |m|; its centre lies 0.1 m below the eyes.

    ZsemError: the points lie on one another, left and right are exchanged, or the square is smaller than 4 pixels.
    """
    if len(landmarks) not in (5, 68):
        raise ValueError(f"a face has 5 or 68 landmarks, not {len(landmarks)}")
    points = (landmarks if len(landmarks) == 5 else five_points(landmarks)).astype(np.float64)
    if not np.isfinite(points).all():
        raise ZsemError("the landmarks are not all finite: give x and y of every point in pixels")
    left_eye, right_eye, _, left_mouth, right_mouth = points
    eyes = (left_eye + right_eye) / 2
    e = right_eye - left_eye
    m = (left_mouth + right_mouth) / 2 - eyes
    if e[0] * m[1] - e[1] * m[0] <= 0:
        raise ZsemError(
            "the landmarks make no face: their order is left eye, right eye, nose, left and right corner of the "
            "mouth, where left is the left side of the picture"
        )
    x = e + np.array([m[1], -m[0]])
    x *= max(2 * np.hypot(*e), 1.8 * np.hypot(*m)) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * m
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    if side(quad) < LEAST_SIDE:
        raise ZsemError(f"the face's square is {side(quad):.1f} pixels wide: at least {LEAST_SIDE} are needed")
    return quad


def side(quad: Float[np.ndarray, "4 2"]) -> float:
    """The length of the square's side in pixels."""
    return float(np.hypot(*(quad[3] - quad[0])))


def align(image: Image.Image, quad: Float[np.ndarray, "4 2"], size: int) -> Image.Image:
    """The square `quad` of an upright image as an RGB image of `size` pixels.

    What lies outside the image is its reflection, blurred and fading to the median colour.

    ZsemError: the square's centre lies outside the image.
    """
    centre = quad.mean(0)
    if not ((centre >= 0) & (centre < image.size)).all():
        x, y = centre.round().astype(int)
        raise ZsemError(
            f"the face would be around {x}, {y}, outside the image of {image.width} x {image.height} pixels"
        )
    image, quad = _shrunk(image.convert("RGB"), quad, size)
    border = max(round(side(quad) * 0.1), 3)
    image, quad = _cropped(image, quad, border)
    image, quad = _padded(image, quad, border)
    large = image.transform(
        (size * SUPERSAMPLING, size * SUPERSAMPLING),
        Image.Transform.QUAD,
        tuple((quad + 0.5).ravel()),
        Image.Resampling.BILINEAR,
    )
    return large.resize((size, size), Image.Resampling.LANCZOS)


def _shrunk(image: Image.Image, quad: np.ndarray, size: int) -> tuple[Image.Image, np.ndarray]:
    """By a whole number, so that the square has at least twice the pixels that are asked for."""
    shrink = int(side(quad) / size / 2)
    if shrink <= 1:
        return image, quad
    width, height = (max(1, round(length / shrink)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS), quad / shrink


def _bounds(quad: np.ndarray) -> tuple[int, int, int, int]:
    left, top = np.floor(quad.min(0)).astype(int).tolist()
    right, bottom = np.ceil(quad.max(0)).astype(int).tolist()
    return left, top, right, bottom


def _cropped(image: Image.Image, quad: np.ndarray, border: int) -> tuple[Image.Image, np.ndarray]:
    """To the square and a border around it, as far as the image goes."""
    left, top, right, bottom = _bounds(quad)
    left, top = max(left - border, 0), max(top - border, 0)
    right, bottom = min(right + border, image.width), min(bottom + border, image.height)
    return image.crop((left, top, right, bottom)), quad - np.array([left, top])


def _padded(image: Image.Image, quad: np.ndarray, border: int) -> tuple[Image.Image, np.ndarray]:
    """With a border on all sides where the square comes near the image's edge or leaves it.

    The weights: the blur sets in a third of the padding's width inside the image and is full at its edge; the median
    sets in at the edge and is full at the end of the padding.
    """
    left, top, right, bottom = _bounds(quad)
    missing = [border - left, border - top, right + border - image.width, bottom + border - image.height]
    if max(missing) <= border - 4:
        return image, quad
    left, top, right, bottom = (max(width, round(side(quad) * 0.3)) for width in missing)
    pixels = np.pad(np.asarray(image, np.float32), ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width, _ = pixels.shape
    y, x, _ = np.ogrid[:height, :width, :1]
    depth = 1 - np.minimum(
        np.minimum(np.float32(x) / left, np.float32(width - 1 - x) / right),
        np.minimum(np.float32(y) / top, np.float32(height - 1 - y) / bottom),
    )
    sigma = side(quad) * 0.02
    pixels += (gaussian_filter(pixels, (sigma, sigma, 0)) - pixels) * np.clip(3 * depth + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
    return Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255))), quad + np.array([left, top])
