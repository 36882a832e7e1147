"""A Gaussian mixture as the prior of semantic codes: seconds to fit, and conditions that it meets exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zsem.models.mixture_fit import Fitted, fit_mixture
from zsem.models.prior import LogP, Method, Name, Prior, Propose
from zsem.models.walking import Walking
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.logistic import Logistic

EDGE = 1e-6  # tangents end this far from the limits of the logistic function, where they are level or diagonal


class LatentMixture(Prior):
    """A Gaussian mixture of normalised z in whitened principal components x.

    The leading `rank` numbers of x are of a mixture with full covariances, the others standard normal. Truncation draws
    codes nearer to the mean of their component: its deviations are multiplied by it.
    """

    kind = "latent_mixture"
    methods = ("tilt", "rejection")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        z_dim: int = 512
        """length of the semantic code"""
        components: int = 1
        """Gaussians of the mixture"""
        rank: int = 1
        """leading principal components that the mixture is of"""

    config: Config

    def __init__(self, config: Config) -> None:
        """Raises ZsemError for no components, or a rank that is none or above the length of z."""
        super().__init__(config, config.z_dim)
        d, k, r = config.z_dim, config.components, config.rank
        if k < 1 or not 1 <= r <= d:
            raise ZsemError(f"a mixture has 1 component or more in 1 to {d} dimensions, not {k} in {r}")
        self.basis = constant(torch.eye(d))  # principal components of normalised z, in columns
        self.scales = constant(torch.ones(d))  # standard deviations along them
        self.weights = constant(torch.full((k,), 1 / k))
        self.means = constant(torch.zeros(k, r))
        self.factors = constant(torch.eye(r).repeat(k, 1, 1))  # lower Cholesky factors of the covariances

    @classmethod
    def fit(cls, z: Float[Tensor, "n d"], *, seed: int = 0) -> LatentMixture:
        """The mixture of raw codes z; what it is made of is chosen by a tenth of them, see `fit_mixture`.

        Its history says what was chosen ("chosen"). Raises ZsemError for too few codes, or such that are not finite.
        """
        mean, std = z.mean(0), z.std(0, correction=0).clamp_min(1e-8)
        fitted = fit_mixture(((z - mean) / std).double().numpy(), seed=seed)
        model = cls.of(fitted)
        model.z_mean.copy_(mean)
        model.z_std.copy_(std)
        return model.eval()

    @classmethod
    def of(cls, fitted: Fitted) -> LatentMixture:
        """The model of a mixture of codes that are normalised already."""
        components, rank = fitted.means.shape
        model = cls(cls.Config(z_dim=len(fitted.scales), components=components, rank=rank))
        for name in ("basis", "scales", "weights", "means", "factors"):
            getattr(model, name).copy_(torch.from_numpy(getattr(fitted, name)))
        model.history["chosen"] = dict(fitted.chosen)
        return model

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log p(z) of raw codes, in nats, exact and differentiable; float64 where the codes are."""
        rank = self.config.rank
        scales, std = self.scales.to(z), self.z_std.to(z)
        x = ((z - self.z_mean.to(z)) / std) @ self.basis.to(z) / scales
        factors, means = self.factors.to(z), self.means.to(z)
        away = (x[:, None, :rank] - means).permute(1, 2, 0)  # [k, r, n], as triangular systems take it
        inside = torch.linalg.solve_triangular(factors, away, upper=False).square().sum(dim=1)
        volume = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        joint = self.weights.to(z).log()[:, None] - volume[:, None] - inside / 2
        rest = x[:, rank:].square().sum(dim=1) / 2
        constant = z.shape[1] / 2 * math.log(2 * math.pi) + scales.log().sum() + std.log().sum()
        return joint.logsumexp(dim=0) - rest - constant

    def chosen(self, method: Method, where: LogP) -> Method:
        """`tilt` for linear logits; errors as in the base."""
        if isinstance(where, Logistic) or method == "rejection":
            return super().chosen(method, where)
        if method == "auto":
            return "rejection"
        if method == "tilt":
            raise ZsemError(
                "a mixture is tilted by linear logits (`Logistic`) alone: take rejection for other conditions"
            )
        return super().chosen(method, where)

    def proposals(
        self, where: LogP | None, method: Method, scale: float | int, truncation: float | int, walking: Walking
    ) -> Propose:
        """Codes of the tilted mixture, or rejection as in the base."""
        if method != "tilt" or not isinstance(where, Logistic):
            return super().proposals(where, method, scale, truncation, walking)
        return self._tilted(where, truncation)

    def draw(self, names: Sequence[Name], truncation: float | int, walking: Walking) -> Float[Tensor, "n d"]:
        """Codes of components drawn by their weights."""
        return self._codes(names, self.weights.double(), truncation)[0]

    def _tilted(self, where: Logistic, truncation: float | int) -> Propose:
        """Proposals from Gaussians that are each tilted towards the condition, and what makes up for it exactly.

        With logits a = G x + g and any b in [0, 1], log sigmoid(a) is concave and lies below its tangent b a - H(b),
        where H(b) = -b log b - (1 - b) log(1 - b). A Gaussian N(m, C) times exp(b a) is N(m + C G^T b, C) times its
        mass, so that p(z) under all tangents is a mixture again; its samples are accepted with the probability
        sigmoid(a) / exp(b a - H(b)) <= 1. The tangents of a component are those under which its mass is least, and so
        the acceptance highest; b = 0 would be rejection from p(z).
        """
        rank, t2 = self.config.rank, float(truncation) ** 2
        factors, means = self.factors.double(), self.means.double()
        back = self._to_raw(torch.float64)
        gain = where.weights.to(back) @ back.T  # [j, d] on x
        offset = where.weights.to(back) @ self.z_mean.double() + where.offsets.to(back)
        leading, rest = gain[:, :rank], gain[:, rank:]
        spread = t2 * factors @ (factors.mT @ leading.T)  # C G^T of every component, [k, r, j]
        covariance = leading @ spread + t2 * rest @ rest.T  # of the logits, [k, j, j]
        centre = means @ leading.T + offset
        tangents = torch.stack([tangent(a, c) for a, c in zip(centre, covariance, strict=True)])  # b, [k, j]
        entropies = (torch.special.entr(tangents) + torch.special.entr(1 - tangents)).sum(dim=1)
        mass = (tangents * centre).sum(1) + torch.einsum("kj,kji,ki->k", tangents, covariance, tangents) / 2 - entropies
        weights = (self.weights.double().log() + mass).softmax(dim=0)
        shift = torch.cat([torch.einsum("krj,kj->kr", spread, tangents), t2 * tangents @ rest], dim=1)

        def propose(names: Sequence[Name]) -> tuple[Tensor, Tensor]:
            z, component = self._codes(names, weights, truncation, shift)
            logits = z @ where.weights.to(z).T + where.offsets.to(z)
            bound = (tangents.to(z)[component.cpu()] * logits).sum(dim=1) - entropies.to(z)[component.cpu()]
            return z, (where(z) - bound).clamp(max=0)  # above 0 by rounding alone

        return propose

    def _to_raw(self, dtype: torch.dtype) -> Float[Tensor, "d d"]:
        """x @ this + z_mean is raw z."""
        return self.scales.to(dtype)[:, None] * self.basis.to(dtype).T * self.z_std.to(dtype)

    def _codes(
        self,
        names: Sequence[Name],
        weights: Float[Tensor, " k"],
        truncation: float | int,
        shift: Float[Tensor, "k d"] | None = None,
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Raw codes and their components, drawn by `weights` in float64; `shift` moves the means of these in x."""
        rank = self.config.rank
        numbers = draws.normal(names, (1 + self.config.z_dim,)).to(self.device)
        place = torch.special.ndtr(numbers[:, 0].to(weights.dtype))  # a normal number is a uniform one too
        component = torch.searchsorted(weights.cumsum(0), place, right=True).clamp(max=len(weights) - 1)
        x = truncation * numbers[:, 1:]
        # a component at a time: all factors gathered by row would be n times as large as one
        for k in component.unique().tolist():
            rows = (component == k).nonzero()[:, 0]
            x[rows, :rank] = self.means[k] + x[rows, :rank] @ self.factors[k].T
        if shift is not None:
            x += shift.to(x)[component]
        return (x @ self._to_raw(x.dtype) + self.z_mean).cpu(), component


def constant(value: Tensor) -> nn.Parameter:
    """A parameter, for the model's stamp and device, that no optimiser changes."""
    return nn.Parameter(value, requires_grad=False)


def tangent(centre: Float[Tensor, " j"], covariance: Float[Tensor, "j j"]) -> Float[Tensor, " j"]:
    """The slopes b of the tangents of log sigmoid that bound a Gaussian of logits most tightly.

    They minimise b a + b C b / 2 - H(b), which is convex; any b in [0, 1] is a bound.
    """
    from scipy.optimize import minimize

    a, c = centre.cpu().numpy(), covariance.cpu().numpy()

    def mass(b: np.ndarray) -> tuple[float, np.ndarray]:
        entropy = -b * np.log(b) - (1 - b) * np.log1p(-b)
        return float(b @ a + b @ c @ b / 2 - entropy.sum()), a + c @ b + np.log(b) - np.log1p(-b)

    start = np.full(len(a), 0.5)
    found = minimize(mass, start, jac=True, method="L-BFGS-B", bounds=[(EDGE, 1 - EDGE)] * len(a))
    return torch.from_numpy(found.x).to(centre)
