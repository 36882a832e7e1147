"""Random numbers as a function of what they are for, never of batching, rank or history.

Every draw is named by integers, e.g. (seed, iteration, position) in training or (seed, image, step) in sampling,
and comes from a counter-based generator (Philox) keyed by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def generator(*name: int) -> np.random.Generator:
    """The random generator that belongs to `name`, a sequence of integers in 0 .. 2^32 - 1."""
    # The length goes in too: a SeedSequence is padded with zeros, so that (1, 2) would be (1, 2, 0)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((len(name), *name))))


def name_of(text: str) -> tuple[int, int]:
    """Two integers that stand for a text, e.g. an image's path, in the names of draws."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")


def normal(names: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
    """Standard normal noise of `shape` for each name, float32 on the CPU, [len(names), *shape]."""
    out = np.empty((len(names), *shape), dtype=np.float32)
    for row, name in zip(out, names, strict=True):
        generator(*name).standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(out)
