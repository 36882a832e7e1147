"""Directions in h without training: the mean difference between images with an attribute and without (2303.11073)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.hspace.collect import Collected, collect_samples
from zsem.models.diffusion import Classes, DiffusionModel
from zsem.models.imaging import Progress
from zsem.semantics.directions import class_centres
from zsem.semantics.probes import Labels, to_float64
from zsem.values.direction import Direction
from zsem.values.errors import ZsemError

Scorer = Callable[[Tensor], Tensor | np.ndarray]
"""One number per image, the more of the attribute the larger: from images in [-1, 1], [n, c, h, w], to [n]."""


def mean_difference(collected: Collected, labels: Labels, name: str) -> Direction:
    """Mean h of images with the attribute minus that of images without, at every timestep (2303.11073, section 4.2).

    It is the mean over images of what Asyrp trains for each (its dh_t^mean); `Direction.mean` makes it one for all
    timesteps (dh^global), and `Direction.without` keeps what other directions change (Haas et al., section 4.3).
    labels: 0/1, NaN = left out; for real ones an amount of 1 is the way from one standard deviation below the mean to
        one above.
    Raises ZsemError where all images have one label or none.
    """
    steps = []
    for timestep in collected.timesteps:
        h = collected.at(timestep)
        try:
            without, with_it = class_centres(h.reshape(len(h), -1), labels)
        except ZsemError as error:
            raise ZsemError(f"attribute {name}: {error}") from None
        steps.append((with_it - without).reshape(h.shape[1:]))
    return Direction(
        space="h", vector=torch.from_numpy(np.stack(steps)).float(), timesteps=collected.timesteps,
        unit=f"mean difference of {name}", name=name, model=collected.model,
    )  # fmt: skip


def extremes(scores: Float[np.ndarray, " n"] | Float[Tensor, " n"], number: int) -> Float[np.ndarray, " n"]:
    """Labels for images that were judged: 1 for the `number` highest scores, 0 for as many lowest, NaN between.

    Of equal scores the first counts as the highest. Raises ZsemError for fewer than one, or more than there are.
    """
    values = to_float64(scores)
    if not 1 <= number <= len(values) // 2:
        raise ZsemError(f"{len(values)} judged images have 1 to {len(values) // 2} at either end, not {number}")
    order = np.argsort(-values, kind="stable")
    labels = np.full(len(values), np.nan)
    labels[order[:number]], labels[order[-number:]] = 1, 0
    return labels


def judged_difference(
    model: DiffusionModel,
    scorer: Scorer,
    name: str,
    *,
    number: int = 200,
    ends: int = 20,
    classes: Classes = None,
    seed: int = 0,
    steps: int = 20,
    pooled: bool = False,
    file: str | Path | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    **settings: Any,
) -> Direction:
    """The mean difference between samples that a scorer puts first and last: no labelled image, no inversion.

    scorer: from the samples, float32 in [-1, 1] after clipping, to scores, e.g. the logit of a classifier.
    number: samples to judge. ends: how many of either end to compare.
    Other arguments are those of `collect_samples`. Raises ZsemError as it and `extremes` do.
    """
    collected, images = collect_samples(
        model, number, classes=classes, seed=seed, steps=steps, pooled=pooled, file=file, batch_size=batch_size,
        progress=progress, **settings,
    )  # fmt: skip
    return mean_difference(collected, extremes(to_float64(scorer(images.clamp(-1, 1))), ends), name)
