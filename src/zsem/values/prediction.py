"""What a denoiser is told (`Condition`) and what it answers (`Prediction`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What the network is told beside x_t and t. A field that is None is not given to the network.

    z: semantic codes as the encoder gives them (not normalised), [b, d].
    classes: class indices, -1 where an image is of no class, which tells the network nothing, [b].
    """

    z: Float[Tensor, "b d"] | None = None
    classes: Int[Tensor, " b"] | None = None

    @staticmethod
    def cat(*conditions: Condition) -> Condition:
        """Join conditions along the batch, for one evaluation of several. All must give the same fields."""

        def join(parts: list[Tensor | None]) -> Tensor | None:
            given = [p for p in parts if p is not None]
            if given and len(given) != len(parts):
                raise ValueError("conditions that are evaluated together must give the same fields (z, classes)")
            return torch.cat(given) if given else None

        return Condition(z=join([c.z for c in conditions]), classes=join([c.classes for c in conditions]))

    def equal(self, other: Condition) -> bool:
        """True where both tell the network the same, to the bit."""

        def same(a: Tensor | None, b: Tensor | None) -> bool:
            return (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))

        return same(self.z, other.z) and same(self.classes, other.classes)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A consistent answer: x_t = alpha x0 + sigma eps holds for every Prediction.

    x0, eps: [b, c, h, w], in the state's dtype.
    var_fraction: the learned share v of the log-variance range (improved DDPM, eq. 15), read by the ancestral solver.
    mean_shift: classifier_scale times the gradient of log p(y | x_t) (ADM, algorithm 1): what the ancestral solver adds
        to the mean of a step, times the variance of that step. It is no part of x0 and eps.
    """

    x0: Float[Tensor, "b c h w"]
    eps: Float[Tensor, "b c h w"]
    var_fraction: Float[Tensor, "b c h w"] | None = None
    mean_shift: Float[Tensor, "b c h w"] | None = None

    def steer(self, d_eps: Float[Tensor, "b c h w"], u: Float[Tensor, "b 1 1 1"]) -> Prediction:
        """Add `d_eps` to eps and -u d_eps to x0, u = sigma/alpha, so that the answer stays consistent."""
        return replace(self, eps=self.eps + d_eps, x0=self.x0 - u * d_eps)


@runtime_checkable
class NoiseLevels(Protocol):
    """The part of a noise schedule that wrappers need."""

    def level(self, t: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """alpha and sigma in float64 at (real-valued) timesteps t in 0..T-1."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """A network that knows its noise schedule: x_t, t and a condition in, a consistent Prediction out."""

    @property
    def schedule(self) -> NoiseLevels: ...

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition, /) -> Prediction: ...


@runtime_checkable
class BoundDenoiser(Protocol):
    """A denoiser whose condition is fixed: what solvers and codecs walk with."""

    @property
    def schedule(self) -> NoiseLevels: ...

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], /) -> Prediction: ...
