"""Sets of samples and how they are judged: against real training images, several sets at few steps, one at many."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from experiments.tables import STEPS, sets_at, spread, within
from jaxtyping import Float
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.data.pixels import from_uint8
from zsem.metrics.memorisation import Memorisation
from zsem.metrics.samples import Distribution, FeatureNetwork, features_of, judge_distribution
from zsem.nets.features import load_efficientnet_lite0
from zsem.training.machine import bf16_is_fast

SETS = {steps: sets_at(steps) for steps in STEPS}
"""Sets of samples by number of steps; one set has a bootstrap interval."""
RESAMPLES = 200
REFERENCE = 5000
"""Real images that samples are compared with."""


def precision_of(device: torch.device) -> str:
    """Of the networks in samples that are judged."""
    return "bf16" if bf16_is_fast(device) else "fp32"


def at_precision(device: torch.device) -> torch.autocast:
    """Networks in bf16 where the hardware computes it; not for codes that must decode to what was encoded."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device))


def reference_of(images: ImageSet, network: FeatureNetwork) -> Distribution:
    """Real training images, as samples are compared with them."""
    pixels = images.split("train").limit(REFERENCE).pixels
    return Distribution(network, features_of(network, map(from_uint8, pixels.split(64))))


def judged_set(reference: Distribution, parts: Iterable[Tensor], sets: int) -> dict[str, Any]:
    """Figures of one set of samples, with intervals where it is the only one of its kind."""
    return asdict(judge_distribution(reference, parts, resamples=RESAMPLES if sets == 1 else 0))


class Watched:
    """A network of features that keeps those it gives in `seen`."""

    def __init__(self, network: FeatureNetwork) -> None:
        self._network, self.seen = network, list[Tensor]()
        self.frechet_name, self.kid_name, self.components = network.frechet_name, network.kid_name, network.components

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        self.seen.append(self._network(images))
        return self.seen[-1]


class Judging:
    """Figures of sets of samples, copies of training images included."""

    def __init__(self, images: ImageSet) -> None:
        self.images, self.network = images, Watched(load_efficientnet_lite0())

    @functools.cached_property
    def reference(self) -> Distribution:
        """Real training images, as samples are compared with them."""
        return reference_of(self.images, self.network)

    @functools.cached_property
    def memorisation(self) -> Memorisation:
        """All training images, and the held-out ones that tell what is usual."""
        parts = [part.pixels.split(64) for part in (self.images.split("train"), self.images.held_out())]
        return Memorisation(*(features_of(self.network, map(from_uint8, pixels)) for pixels in parts))

    def figures(self, parts: Iterable[Tensor], sets: int) -> dict[str, Any]:
        """Of one set of samples in [-1, 1], with intervals where it is the only one of its kind."""
        reference, copies = self.reference, self.memorisation.empty()
        self.network.seen.clear()
        figures = judged_set(reference, parts, sets)
        copies.update(torch.cat(self.network.seen))
        return {**figures, "memorisation": asdict(copies.compute())}


def shown(found: Sequence[Mapping[str, Any]]) -> str:
    """The Frechet distance of all sets of one kind: mean and deviation, or the one set's interval."""
    if len(found) > 1:
        return spread([figures["frechet"] for figures in found], ".1f")
    return within(found[0]["frechet"], found[0]["frechet_interval"], ".1f")


def copies_shown(found: Sequence[Mapping[str, Any]]) -> str:
    """The memorisation ratio of all sets of one kind: mean and deviation, or the one set's interval."""
    ratios = [figures["memorisation"]["ratio"] for figures in found]
    return spread(ratios, ".3f") if len(found) > 1 else within(ratios[0], found[0]["memorisation"]["interval"], ".3f")
