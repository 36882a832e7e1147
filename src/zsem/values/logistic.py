"""Probabilities of attributes that are read off codes by linear classifiers, as one value."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Logistic:
    """log p(z has all of it), for attributes that are independent given z, each with a linear logit.

    weights, offsets: of the logits, for raw z; those of an attribute that must be absent are negated, [k, d] and [k].
    """

    weights: Float[Tensor, "k d"]
    offsets: Float[Tensor, " k"]

    def __call__(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The sum of the logarithms of the probabilities, at most 0, differentiable in z."""
        logits = z @ self.weights.to(z).T + self.offsets.to(z)
        return F.logsigmoid(logits).sum(dim=1)
