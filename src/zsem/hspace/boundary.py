"""Linear boundaries in h: where on the way from noise an attribute can be read, and edits across its boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from zsem.hspace.collect import Collected
from zsem.models.imaging import Progress
from zsem.semantics.probes import (
    RESAMPLES,
    HeldOutLabels,
    Labels,
    Probe,
    ProbeFigures,
    probe_attributes,
    to_float64,
)
from zsem.values.direction import Direction


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How well a linear probe reads an attribute off h at one timestep.

    figures: on held-out images (AUROC, or R2 of real values).
    accuracy: share of held-out images that it puts on the right side of its boundary; None for real values.
    """

    timestep: float
    probe: Probe
    figures: ProbeFigures
    accuracy: float | None

    def summary(self) -> dict[str, Any]:
        """JSON-able: timestep, auroc or r2 with its 95 % interval and p-value, accuracy, n."""
        figures = self.figures
        return {
            "timestep": self.timestep, figures.measure: figures.score, "low": figures.low, "high": figures.high,
            "p": figures.p, "accuracy": self.accuracy, "n": figures.n,
        }  # fmt: skip


def read_attributes(
    train: Collected,
    labels: Mapping[str, Labels],
    test: Collected,
    test_labels: Mapping[str, HeldOutLabels],
    *,
    train_groups: Sequence[str] | None = None,
    test_groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, list[Reading]]:
    """For every attribute of `labels`, a probe on h at every timestep, judged on held-out images: a diagnostic curve.

    train, test: h of the images at the same timesteps, noisiest first, whole or pooled.
    Other arguments as for `probe_attributes`. progress: called with (timesteps done, timesteps in all).
    Raises ZsemError, which names the attribute, where it cannot be learned or judged; ValueError for other timesteps.
    """
    if train.timesteps != test.timesteps:
        raise ValueError("h of training and of held-out images must be of the same timesteps")
    found: dict[str, list[Reading]] = {name: [] for name in labels}
    for done, timestep in enumerate(train.timesteps, 1):
        h, held_out = (part.at(timestep).reshape(len(part), -1) for part in (train, test))
        probes = probe_attributes(
            h, labels, held_out, test_labels,
            train_groups=train_groups, test_groups=test_groups, resamples=resamples, seed=seed,
        )  # fmt: skip
        for name, (probe, figures) in probes.items():
            accuracy = _accuracy(probe, held_out, test_labels[name]) if probe.binary_ else None
            found[name].append(Reading(timestep=timestep, probe=probe, figures=figures, accuracy=accuracy))
        if progress is not None:
            progress(done, len(train.timesteps))
    return found


def chosen(readings: Sequence[Reading], timestep: float | int | None = None) -> Reading:
    """The reading nearest to a timestep; where none is given, that of the best held-out figures."""
    if timestep is None:
        return max(readings, key=lambda one: one.figures.score)
    return min(readings, key=lambda one: abs(one.timestep - timestep))


def boundary(collected: Collected, reading: Reading, name: str) -> Direction:
    """The normal of a probe's boundary in h (2302.08357, section 4.2): an amount of 1 changes its logit by 1.

    collected: what the reading is of. It has the reading's timestep; used at others it is the same there.
    Raises ZsemError where the probe has no gradient: it found nothing.
    """
    flat = reading.probe.direction(name, model=collected.model)
    vector = flat.vector.view(1, *collected.h.shape[2:])
    return replace(flat, space="h", vector=vector, timesteps=(reading.timestep,))


@dataclass(frozen=True)
class Reach:
    """A `Shift` that brings every h to a given signed distance from a boundary: h + (d - <h, n>) n (2302.08357, eq. 9).

    direction: of `boundary`. logit: the signed distance in its unit: 0 = on the boundary, +2 = 88 % sure.
    It acts at the direction's own timestep, which must be a level of the walk; at others its classifier means nothing.
    """

    direction: Direction
    logit: float | int

    def __call__(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """What is missing. Raises ValueError where the direction comes from no classifier, or not of one timestep."""
        (timestep,) = self.direction.timesteps
        acts = (t == timestep)[:, None, None, None].to(h)
        vector = acts * self.direction.at(t).to(h)
        whole = vector.shape[2:] == h.shape[2:]
        there = self.direction.logit((h if whole else h.mean(dim=(2, 3), keepdim=True)).to(self.direction.vector))
        return ((self.logit - there.to(h))[:, None, None, None] * vector).expand_as(h)


def _accuracy(probe: Probe, h: Float[np.ndarray, "n d"], labels: HeldOutLabels) -> float:
    values = to_float64(labels)
    known = ~np.isnan(values)
    return float(np.mean((probe.decision_function(h[known]) > 0) == (values[known] > 0.5)))
