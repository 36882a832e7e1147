"""What measures share that look at all features of the real and of the made images at once."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

Measure = TypeVar("Measure", bound="Collected")


class Collected:
    """Features of real images, and of made ones as they come.

    Made images are taken in the order of their features, so that figures that draw from them at random depend neither
    on batches nor on the order in which parts were merged.
    """

    def __init__(self, reference: Float[Tensor, "n d"]) -> None:
        """reference: features of the real images."""
        self._reference = reference.detach().cpu()
        self._parts: list[Tensor] = []

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Count features of one batch of made images."""
        self._parts.append(features.detach().cpu())

    def merge(self, other: Collected) -> None:
        """Add what `other` has counted; `other` stays as it is. Raises ValueError for another reference."""
        if not torch.equal(self._reference, other._reference):
            raise ValueError("measures against different real images cannot be merged")
        self._parts += other._parts

    def empty(self: Measure) -> Measure:
        """The same measure with nothing counted; what was found out about the real images is kept."""
        fresh = copy.copy(self)
        fresh._parts = []
        return fresh

    @property
    def real(self) -> Float64[np.ndarray, "n d"]:
        """Features of the real images."""
        return self._reference.double().numpy()

    @property
    def made(self) -> Float64[np.ndarray, "m d"]:
        """Features of the made images counted so far, sorted."""
        parts = [part.double().numpy() for part in self._parts]
        rows = np.ascontiguousarray(np.concatenate([np.empty((0, self._reference.shape[1])), *parts]))
        # as bytes: an order of whole rows, whatever it means
        return rows[np.argsort(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel(), kind="stable")]
