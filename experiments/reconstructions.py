"""Faces from less than their pixels, and how close they come: what tables 1 and 2 share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from experiments.tables import spread
from jaxtyping import Float, Shaped
from sklearn.decomposition import PCA
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.data.pixels import from_uint8
from zsem.evaluation.attributes import UNLABELLED
from zsem.metrics.intervals import interval_of_mean
from zsem.metrics.perceptual import Distance
from zsem.metrics.reconstruction import ssim
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.semantics.probes import RESAMPLES
from zsem.values.codes import Codes

MEASURES = {"SSIM": ".3f", "ST-LPIPS": ".3f", "MSE": ".2e"}
"""What is measured, and how it is written."""
SEEDS = 3
"""Sets of fresh x_T."""
BATCH = 50


def closeness(images: ImageSet, decoded: Float[Tensor, "n c h w"], distance: Distance) -> dict[str, Any]:
    """Means over the images, with their 95 % bootstrap intervals: SSIM and MSE on [0, 1], and the distance.

    decoded: what stands for the images, here clipped to [-1, 1].
    """
    parts: list[list[Tensor]] = [[] for _ in MEASURES]
    for pixels, clipped in zip(images.pixels.split(BATCH), decoded.clamp(-1, 1).split(BATCH), strict=True):
        real = from_uint8(pixels)
        x, y = ((part.double() + 1) / 2 for part in (real, clipped))
        with torch.no_grad():
            found = ssim(x, y), distance(real, clipped), (x - y).square().mean(dim=(1, 2, 3))
        for values, part in zip(parts, found, strict=True):
            values.append(part)
    figures: dict[str, Any] = {"n": len(images)}
    for name, values in zip(MEASURES, parts, strict=True):
        every = torch.cat(values).double().numpy()
        interval = interval_of_mean(every, resamples=RESAMPLES, seed=0)
        figures[name] = {"mean": float(every.mean()), **asdict(interval)}
    return figures


def shown(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measures of one way: of several sets, mean and deviation over them."""
    if len(found) > 1:
        return [spread([figures[name]["mean"] for figures in found], form) for name, form in MEASURES.items()]
    return [format(found[0][name]["mean"], form) for name, form in MEASURES.items()]


def with_fresh_noise(model: DiffusionAutoencoder, codes: Codes, *, steps: int, seed: int) -> Codes:
    """z of codes and new x_T, which DDIM decodes in so many steps."""
    levels = tuple(model.grid(steps, "ddim").t[:-1].tolist())
    noise = model.fresh_noise(len(codes), seed=seed)
    return replace(codes, noise=noise, codec="ddim", timesteps=levels, sha256=())


def from_components(
    train: Shaped[Tensor, "n c h w"], images: Shaped[Tensor, "m c h w"], dims: int
) -> Float[Tensor, "m c h w"]:
    """Images in [-1, 1] from their first principal components of pixels, which training images have."""

    def flat(pixels: Tensor) -> np.ndarray:
        return from_uint8(pixels).flatten(1).numpy()

    pca = PCA(min(dims, len(train)), svd_solver="randomized", random_state=0).fit(flat(train))
    decoded = pca.inverse_transform(pca.transform(flat(images)))
    return torch.from_numpy(decoded).float().view(images.shape)


def components_of(images: ImageSet) -> Tensor:
    """Training pixels that principal components are fitted to."""
    return images.split("train").limit(UNLABELLED).pixels
