"""Sets of samples and how they are judged: against real training images, several sets at few steps, one at many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from experiments.tables import STEPS, sets_at, spread, within
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.data.pixels import from_uint8
from zsem.metrics.samples import Distribution, FeatureNetwork, features_of, judge_distribution
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


def shown(found: Sequence[Mapping[str, Any]]) -> str:
    """The Frechet distance of all sets of one kind: mean and deviation, or the one set's interval."""
    if len(found) > 1:
        return spread([figures["frechet"] for figures in found], ".1f")
    return within(found[0]["frechet"], found[0]["frechet_interval"], ".1f")
