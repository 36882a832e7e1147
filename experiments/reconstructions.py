"""Faces from less than their pixels, and how close they come: what tables 1 and 2 share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from experiments.tables import FEW_STEPS, SEEDS, Cell, sets_at, spread
from jaxtyping import Float, Shaped
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.data.pixels import from_uint8, grid, to_uint8
from zsem.evaluation.attributes import UNLABELLED
from zsem.metrics.intervals import interval_of_mean
from zsem.metrics.perceptual import Distance
from zsem.metrics.reconstruction import ssim
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.semantics.probes import RESAMPLES
from zsem.values.codes import Codes

MEASURES = {"SSIM": ".3f", "ST-LPIPS": ".3f", "MSE": ".2e"}
"""What is measured, and how it is written."""
SETS_SAID = f"Random x_T: mean and standard deviation over {SEEDS} seeds, beyond {FEW_STEPS} steps one"
BATCH, PICTURED = 50, 8


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


@dataclass(frozen=True, kw_only=True)
class Way:
    """From images to images.

    says: what it is. dims: length of its code. passes: evaluations of a network per step, 0 where there are no steps.
    decode: takes images, steps and a seed. drawn: whether the seed counts.
    """

    says: str
    dims: int
    passes: int
    decode: Callable[[ImageSet, int, int], Tensor]
    drawn: bool = False

    def keys(self, name: str, all_steps: Sequence[int]) -> dict[int, list[str]]:
        """Names of its cells by number of steps; 0 stands for none."""
        steps_of_it = all_steps if self.passes else [0]
        sets = {steps: sets_at(steps) if self.drawn else 1 for steps in steps_of_it}
        return {steps: [f"{name}-{steps}-{seed}" for seed in range(n)] for steps, n in sets.items()}


def by_z(model: DiffusionAutoencoder) -> Way:
    """An autoencoder's z, with random x_T."""

    def decode(images: ImageSet, steps: int, seed: int) -> Tensor:
        codes = model.encode(images, noise=False, batch_size=BATCH)
        return model.decode(with_fresh_noise(model, codes, steps=steps, seed=seed), batch_size=BATCH)

    return Way(says="autoencoder, random x_T", dims=model.config.z_dim, passes=1, decode=decode, drawn=True)


def by_noise(model: DiffusionAutoencoder, codec: str) -> Way:
    """An autoencoder's z and noise."""

    def decode(images: ImageSet, steps: int, seed: int) -> Tensor:
        return model.decode(model.encode(images, codec=codec, steps=steps, batch_size=BATCH), batch_size=BATCH)

    pixels = math.prod(model.noise_shape)
    # the carry of the exact codec counts as well
    says, tensors = ("exact noise", 2) if codec == "exact" else ("DDIM-inverted x_T", 1)
    return Way(says=f"autoencoder, {says}", dims=model.config.z_dim + tensors * pixels, passes=2, decode=decode)


def by_inversion(twin: DiffusionModel) -> Way:
    """The x_T of an unconditional model, by DDIM backwards."""

    def decode(images: ImageSet, steps: int, seed: int) -> Tensor:
        return twin.decode(twin.invert(images, codec="ddim", steps=steps, batch_size=BATCH), batch_size=BATCH)

    return Way(says="DDIM twin, inverted x_T", dims=math.prod(twin.noise_shape), passes=2, decode=decode)


def cells_of(
    ways: Mapping[str, Way], images: ImageSet, all_steps: Sequence[int], distance: Distance
) -> dict[str, Cell]:
    """Closeness by every way, number of steps and seed."""
    cells = {}
    for name, way in ways.items():
        for steps, keys in way.keys(name, all_steps).items():
            for seed, key in enumerate(keys):

                def work(way: Way = way, steps: int = steps, seed: int = seed) -> dict[str, Any]:
                    return closeness(images, way.decode(images, steps, seed), distance)

                cells[key] = Cell(evaluations=way.passes * steps * len(images), work=work)
    return cells


def rows_of(ways: Mapping[str, Way], found: Mapping[str, Any], all_steps: Sequence[int]) -> list[list[str]]:
    """What every way is, latent dimension, steps and measures."""
    return [
        [way.says, f"{way.dims:,}", str(steps or ""), *shown([found[key] for key in keys])]
        for name, way in ways.items()
        for steps, keys in way.keys(name, all_steps).items()
    ]


def drawn(ways: Mapping[str, Way], images: ImageSet, steps: int) -> Image.Image:
    """The first images, by every way."""
    some = images.subset(range(min(PICTURED, len(images))))
    rows = {"originals": some.pixels}
    rows |= {way.says: to_uint8(way.decode(some, steps, 0)) for way in ways.values()}
    return grid(*rows.values(), captions=list(rows), scale=max(1, 64 // some.pixels.shape[-1]))


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
