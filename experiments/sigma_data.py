"""What a network of patches should predict: v, or the image itself where there is much noise (`sigma_data`).

    python -m experiments.sigma_data [--values 1 0.2 0.1 0.05] [--images 64000] [--number 1000] [--out DIR]

Autoencoders of preset `nano` (patches of 2 x 2) on the faces at 32 px, equal but for sigma_data, some four minutes each
on two cores. Judged: FD-EffLite0 of held-out faces decoded from z with fresh x_T, and how grainy they are; the error of
the prediction of x0 by noise level; what linear probes read off z. 1 is v itself.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from experiments.runs import Recipe, images_of, kept, train, trained
from experiments.samples import at_precision, judged_set, reference_of
from experiments.table2 import probes
from experiments.tables import TABLES, publish, table
from jaxtyping import Float
from torch import Tensor

from zsem.data.images import ImageSet, load_images
from zsem.data.pixels import from_uint8, grid, save_png, to_uint8
from zsem.evaluation.keeping import digest
from zsem.metrics.samples import Distribution
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import evaluation
from zsem.models.walking import Walking
from zsem.nets.features import load_efficientnet_lite0
from zsem.training.presets import find_preset
from zsem.values.prediction import Condition

NAME, BATCH, PICTURED = "sigma_data", 50, 10
VALUES = (1.0, 0.2, 0.1, 0.05)
TIMESTEPS = (5, 50, 200, 500)
DECODED = Walking(steps=20)


def recipe_of(value: float, images: int) -> Recipe:
    """`nano` with this sigma_data."""
    nano = find_preset("nano")
    preset = replace(nano, model=replace(nano.model, sigma_data=value))
    return Recipe(says=f"sigma_data {value:g}", data="avatars-64", preset=preset, images=images)


def grain(images: Float[Tensor, "b c h w"]) -> float:
    """The deviation of pixels from what their neighbours say, in [-1, 1]; the median over an image, the mean over all.

    Drawn faces are flat almost everywhere: theirs is next to nothing.
    """
    corners = images[..., 1:, 1:] - images[..., 1:, :-1] - images[..., :-1, 1:] + images[..., :-1, :-1]
    return float(corners.abs().flatten(1).median(1).values.mean() / 2 / 0.6745)


def predicted(model: DiffusionAutoencoder, z: Tensor, x0: Tensor) -> dict[str, float]:
    """Mean squared error of predicted x0 by timestep, at fresh noise that is the same for all models."""
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    errors = {}
    for timestep in TIMESTEPS:
        t = torch.full((len(x0),), float(timestep))
        with evaluation(model):
            found = model.denoiser(model.schedule.diffuse(x0, eps, t), t, Condition(z=z)).x0
        errors[str(timestep)] = float((found - x0).square().mean())
    return errors


def judged(
    model: DiffusionAutoencoder, images: ImageSet, number: int, reference: Callable[[], Distribution]
) -> dict[str, Any]:
    """All figures of one model; `reference` gives the training faces that samples are compared with."""
    held_out = images.held_out().limit(number)
    z = model.encode(held_out, noise=False, batch_size=BATCH).z
    with at_precision(model.device):
        made = model.decode(model.codes(z), walking=DECODED, batch_size=BATCH).clamp(-1, 1)
    few = slice(4 * BATCH)
    return {
        **judged_set(reference(), made.split(BATCH), 1),
        "grain": grain(made), "x0": predicted(model, z[few], from_uint8(held_out.pixels[few])),
        "probes": probes(model, images),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=float, nargs="+", default=list(VALUES), metavar="S")
    parser.add_argument("--images", type=int, default=64_000, help="that each model sees, default 64000")
    parser.add_argument("--number", type=int, default=1000, help="held-out faces; default 1000")
    parser.add_argument("--out", type=Path, default=TABLES / NAME, help=f"default {TABLES / NAME}")
    given = parser.parse_args()
    recipes = {f"nano-s{value:g}": recipe_of(value, given.images) for value in given.values}
    train(recipes, None)
    images = load_images(images_of("avatars-64", None), size=find_preset("nano").model.image_size)
    reference = functools.cache(lambda: reference_of(images, load_efficientnet_lite0()))
    models = [
        trained(recipe, name, f"python -m experiments.{NAME}", DiffusionAutoencoder) for name, recipe in recipes.items()
    ]
    found = {
        name: kept(
            given.out / "cells" / digest([model.stamp, given.number]) / f"{name}.json",
            lambda model=model: judged(model, images, given.number, reference),
        )
        for name, model in zip(recipes, models, strict=True)
    }
    some = images.held_out().limit(PICTURED)
    pictures = [
        model.decode(model.codes(model.encode(some, noise=False).z), walking=DECODED).clamp(-1, 1) for model in models
    ]
    captions = [recipe.says for recipe in recipes.values()]
    sheet = grid(some.pixels, *map(to_uint8, pictures), captions=["held-out faces", *captions], scale=2)
    save_png(sheet, given.out / "samples.png")
    rows = [
        [
            f"{value:g}", f"{f['frechet']:.1f}", f"{f['recall']:.3f}", f"{f['grain']:.4f}",
            *(f"{f['x0'][str(t)]:.4f}" for t in TIMESTEPS), f"{f['probes']['z']['mean']:.3f}",
        ]
        for value, f in zip(given.values, found.values(), strict=True)
    ]  # fmt: skip
    head = ["sigma_data", "FD-EffLite0", "recall", "grain", *(f"x0 at t = {t}" for t in TIMESTEPS), "AUROC of z"]
    real = from_uint8(images.held_out().limit(given.number).pixels)
    lines = [
        "# What to predict",
        f"Each model saw {given.images:,} images. FD and recall: {given.number:,} held-out faces decoded from z with "
        f"fresh x_T, {DECODED.steps} steps, to training faces. Grain: how far pixels are from what their neighbours "
        f"say; held-out faces have {grain(real):.4f}. x0: mean squared error of its prediction. AUROC: the mean over "
        "attributes.",
        "",
        *table(head, rows),
        "",
        "![The same faces by all models, from z alone](samples.png)",
    ]
    publish(given.out, NAME, lines, found, quick=False)


if __name__ == "__main__":
    main()
