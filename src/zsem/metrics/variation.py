"""How far pictures move when their codes do: along a path, and when z or x_T alone changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zsem.metrics.perceptual import Distance, PairFigures, mean_distance
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.values.codes import Codes, between
from zsem.values.draws import generator

EPSILON = 1e-3
"""Part of a path between two points that are compared: well above the rounding of float32 networks."""


def path_length(
    decode: Callable[[Codes], Tensor],
    a: Codes,
    b: Codes,
    distance: Distance,
    *,
    epsilon: float | int = EPSILON,
    seed: int = 0,
) -> PairFigures:
    """Perceptual path length of interpolation, the mean of d(x(t), x(t + epsilon)) / epsilon^2 (StyleGAN, 1812.04948).

    One point t for each pair, uniform in 0 .. 1 - epsilon; smooth morphs are shorter.

    decode: pixels [n, c, h, w] of codes, e.g. of a model. a, b: the ends, n of each. distance: one that grows with the
    square of small changes, as LPIPS does. seed: of the points.
    """
    if len(a) != len(b):
        raise ValueError(f"paths need as many beginnings ({len(a)}) as ends ({len(b)})")
    points = torch.from_numpy(generator(seed).random(len(a))) * (1 - epsilon)
    steps = [
        between(a[[i]], b[[i]], torch.stack([point, point + epsilon]).float()) for i, point in enumerate(points)
    ]  # fmt: skip
    images = decode(Codes.cat(steps))
    return mean_distance(lambda x, y: distance(x, y) / epsilon**2, images[0::2], images[1::2])


@dataclass(frozen=True, kw_only=True)
class Variation:
    """What changes in pictures with x_T, and with z."""

    vary: PairFigures
    """Distance of two pictures of one z that differ in x_T alone."""
    mix: PairFigures
    """Distance of two pictures of one x_T that differ in z alone."""

    @property
    def ratio(self) -> float:
        """vary / mix: small where z says what an image shows."""
        return self.vary.distance / self.mix.distance


def variation(model: DiffusionAutoencoder, codes: Codes, distance: Distance, *, seed: int = 0) -> Variation:
    """Distances of pictures that share z or x_T (both rows of DiffAE's Fig. 3), with fresh x_T everywhere.

    codes: of two images or more; each z is exchanged for the next one's. Three pictures are decoded of each.
    Raises ValueError for fewer than two.
    """
    if len(codes) < 2:
        raise ValueError("z is exchanged between images: give codes of two or more")
    first, second = (model.vary(codes, seed=each) for each in (seed, seed + 1))
    exchanged = replace(first, z=first.z.roll(1, 0))
    images, other_noise, other_z = (model.decode(part) for part in (first, second, exchanged))
    return Variation(vary=mean_distance(distance, images, other_noise), mix=mean_distance(distance, images, other_z))
