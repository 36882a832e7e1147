"""Solvers: generator functions that walk a state over a grid of noise levels.

In xb = x_t / alpha and u = sigma / alpha the probability-flow ODE is d xb / du = eps (DDIM, eq. 14), whatever the noise
schedule and whatever the network predicts. All ODE solvers here are written in these coordinates.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.posterior import Posteriors, Variance
from zsem.diffusion.schedule import TimeGrid, state_dtype
from zsem.values.prediction import BoundDenoiser, Prediction


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a solver has done after one step.

    index: of the step, 0..grid.steps - 1.
    x: x_t at node index + 1 of the grid, in the state's dtype, not clipped.
    prediction: the denoiser's last answer before the step.
    nfe: evaluations of the denoiser so far.
    """

    index: int
    x: Float[Tensor, "b c h w"]
    prediction: Prediction
    nfe: int


Solver = Callable[..., Iterator[Step]]
NoiseSource = Callable[[int], Tensor]
_P = ParamSpec("_P")

SOLVERS: dict[str, Solver] = {}


def solver(name: str) -> Callable[[Callable[_P, Iterator[Step]]], Callable[_P, Iterator[Step]]]:
    """Register a solver under a name.

    A solver is a generator function `(denoise, x, grid, ...) -> Iterator[Step]` that starts from x at the grid's first
    node. Stochastic ones take `noise`, which gives standard normal noise of x's shape for a step index.
    """

    def register(function: Callable[_P, Iterator[Step]]) -> Callable[_P, Iterator[Step]]:
        SOLVERS[name] = function
        return function

    return register


def last(steps: Iterator[Step]) -> tuple[Float[Tensor, "b c h w"], int]:
    """Walk to the end: x_t at the last node, and the number of evaluations."""
    (final,) = deque(steps, maxlen=1)
    return final.x, final.nfe


class Walk:
    """A denoiser on the nodes of a grid, without gradients: scalars as Python floats, timesteps on the device once.

    ancestral: the walker adds mean_shift itself; others refuse it, as they would silently walk without the guidance.
    """

    def __init__(
        self, denoise: BoundDenoiser, grid: TimeGrid, like: Float[Tensor, "b c h w"], *, ancestral: bool = False
    ) -> None:
        self.dtype = state_dtype(like.device)
        self.alpha: list[float] = grid.alpha.tolist()
        self.sigma: list[float] = grid.sigma.tolist()
        self.u: list[float] = grid.u.tolist()
        self.nfe = 0
        self._denoise = denoise
        self._ancestral = ancestral
        self._t = grid.t.to(like.device, self.dtype)

    def predict(self, xb: Float[Tensor, "b c h w"], node: int) -> Prediction:
        """Evaluate the denoiser at xb = x_t / alpha on a node.

        Raises ValueError for guidance in mean form where the walker is not ancestral.
        """
        self.nfe += 1
        # here rather than round the generators, whose callers run between the steps
        with torch.no_grad():
            prediction = self._denoise(self.alpha[node] * xb, self._t[node].expand(len(xb)))
        if prediction.mean_shift is not None and not self._ancestral:
            raise ValueError("guidance in mean form is for the solver ddpm alone; use the score form")
        return prediction

    def start(self, x: Float[Tensor, "b c h w"], node: int = 0) -> Float[Tensor, "b c h w"]:
        """xb = x_t / alpha on a node, in the state's dtype."""
        return x.detach().to(self.dtype) / self.alpha[node]

    def falling(self) -> None:
        """Raise ValueError where the grid leads from clean to noisy: not every solver can go there."""
        if self.u[0] < self.u[-1]:
            raise ValueError("this solver walks from noisy to clean only; use ddim or heun on a reversed grid")


@solver("ddpm")
def ddpm(
    denoise: BoundDenoiser,
    x: Float[Tensor, "b c h w"],
    grid: TimeGrid,
    *,
    noise: NoiseSource,
    variance: Variance = "small",
) -> Iterator[Step]:
    """Ancestral sampling (DDPM, algorithm 2), one evaluation a step; no noise is added on the step to a clean node.

    variance: small = that of the posterior (DDPM, eq. 7), large = beta of the step (DDPM, section 3.2), learned =
        between the two, where the denoiser's var_fraction says (improved DDPM, eq. 15). The mean of a step is shifted
        by it times mean_shift, where the denoiser gives one (ADM, algorithm 1).
    Raises ValueError for learned where the denoiser gives no var_fraction.
    """
    walk = Walk(denoise, grid, x, ancestral=True)
    walk.falling()
    posteriors = Posteriors.of(grid)
    x = x.detach().to(walk.dtype)
    for i in range(grid.steps):
        prediction = walk.predict(x / walk.alpha[i], i)
        x = posteriors.mean(i, prediction.x0, x)
        spread = posteriors.variance(variance, i, prediction.var_fraction)
        to_clean = walk.sigma[i + 1] == 0
        # to the clean node as well, as guided-diffusion does; there the posterior's variance is 0
        if prediction.mean_shift is not None and not (to_clean and variance == "small"):
            x = x + spread * prediction.mean_shift
        if not to_clean:
            x = x + spread**0.5 * noise(i).to(x)
        yield Step(index=i, x=x, prediction=prediction, nfe=walk.nfe)


@solver("ddim")
def ddim(
    denoise: BoundDenoiser,
    x: Float[Tensor, "b c h w"],
    grid: TimeGrid,
    *,
    eta: float | int = 0.0,
    noise: NoiseSource | None = None,
) -> Iterator[Step]:
    """DDIM (eq. 12), one evaluation a step: Euler's method in u, order 1, for eta 0; the grid may be reversed then.

    eta: share of the posterior's standard deviation that is added as fresh noise (DDIM, eq. 16), 0..1; needs `noise`.
    """
    walk = Walk(denoise, grid, x)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in 0..1, not {eta}")
    if eta > 0:
        walk.falling()
        if noise is None:
            raise ValueError("ddim with eta > 0 needs `noise`")
    xb = walk.start(x)
    for i in range(grid.steps):
        u, u_next = walk.u[i], walk.u[i + 1]
        fresh = fresh_deviation(walk, i, eta)
        prediction = walk.predict(xb, i)
        xb = xb + (math.sqrt(u_next**2 - fresh**2) - u) * prediction.eps
        if noise is not None and fresh > 0:
            xb = xb + fresh * noise(i).to(xb)
        yield Step(index=i, x=walk.alpha[i + 1] * xb, prediction=prediction, nfe=walk.nfe)


def fresh_deviation(walk: Walk, i: int, eta: float | int) -> float:
    """Standard deviation of the noise that DDIM adds on a step, over alpha of the node it leads to (DDIM, eq. 16)."""
    if eta == 0:
        return 0.0
    return eta * walk.u[i + 1] * math.sqrt(1 - (walk.alpha[i] / walk.alpha[i + 1]) ** 2) / walk.sigma[i]


@solver("heun")
def heun(denoise: BoundDenoiser, x: Float[Tensor, "b c h w"], grid: TimeGrid) -> Iterator[Step]:
    """The trapezoidal rule with an Euler predictor (EDM, algorithm 1), two evaluations a step, order 2.

    The grid may be reversed. EDM takes an Euler step to the clean node; here that node is evaluated too.
    """
    walk = Walk(denoise, grid, x)
    xb = walk.start(x)
    for i in range(grid.steps):
        h = walk.u[i + 1] - walk.u[i]
        here = walk.predict(xb, i).eps
        prediction = walk.predict(xb + h * here, i + 1)
        xb = xb + h / 2 * (here + prediction.eps)
        yield Step(index=i, x=walk.alpha[i + 1] * xb, prediction=prediction, nfe=walk.nfe)


@solver("dpmpp_2m")
def dpmpp_2m(denoise: BoundDenoiser, x: Float[Tensor, "b c h w"], grid: TimeGrid) -> Iterator[Step]:
    """DPM-Solver++(2M) (2211.01095, algorithm 2), one evaluation a step, order 2; first order at the clean node."""
    walk = Walk(denoise, grid, x)
    walk.falling()
    xb = walk.start(x)
    before: Tensor | None = None
    for i in range(grid.steps):
        prediction = walk.predict(xb, i)
        xb = _exponential_step(walk.u, i, xb, prediction.x0, before)
        before = prediction.x0
        yield Step(index=i, x=walk.alpha[i + 1] * xb, prediction=prediction, nfe=walk.nfe)


@solver("unipc")
def unipc(denoise: BoundDenoiser, x: Float[Tensor, "b c h w"], grid: TimeGrid) -> Iterator[Step]:
    """UniPC-2 with B(h) = e^h - 1 on predictions of x0 (2302.04867), one evaluation a step, order 3.

    The evaluation at a node corrects the step that led there (UniC-2) and feeds the next one (UniP-2, which is
    DPM-Solver++(2M)). The last node is not evaluated, so not corrected.
    """
    walk = Walk(denoise, grid, x)
    walk.falling()
    xb = walk.start(x)
    start = xb  # the corrected state one node ago
    history: list[Tensor] = []  # predictions of x0, the latest last
    for i in range(grid.steps):
        prediction = walk.predict(xb, i)
        if i > 0:
            xb = _unified_corrector(walk.u, i, start, prediction.x0, history)
        before = history[-1] if history else None
        history = [*history[-1:], prediction.x0]
        start = xb
        xb = _exponential_step(walk.u, i, xb, prediction.x0, before)
        yield Step(index=i, x=walk.alpha[i + 1] * xb, prediction=prediction, nfe=walk.nfe)


def _exponential_step(u: list[float], i: int, xb: Tensor, x0: Tensor, before: Tensor | None) -> Tensor:
    """From node i to i + 1: x0 extrapolated linearly in log-SNR from the last two nodes, or constant (no `before`)."""
    q = u[i + 1] / u[i]
    if before is None or q == 0:
        return q * xb + (1 - q) * x0
    ratio = math.log(q) / math.log(u[i] / u[i - 1])
    return q * xb + (1 - q) * ((1 + ratio / 2) * x0 - ratio / 2 * before)


def _unified_corrector(u: list[float], i: int, start: Tensor, x0: Tensor, history: list[Tensor]) -> Tensor:
    """xb at node i again, from `start` at node i - 1, x0 predicted at node i and the history up to node i - 1."""
    q = u[i] / u[i - 1]
    base = q * start + (1 - q) * history[-1]
    change = x0 - history[-1]
    if len(history) == 1:
        return base + (1 - q) / 2 * change
    h = math.log(q)
    r = math.log(u[i - 2] / u[i - 1]) / h
    # b_k = h^k phi_{k+1}(h) k! / B(h) of the paper, divided by h
    phi = (q - 1) / h - 1
    b1 = phi / (q - 1)
    b2 = (phi / h - 0.5) * 2 / (q - 1)
    rho = (b1 - b2) / (1 - r)
    return base + (1 - q) * (rho / r * (history[-2] - history[-1]) + (b1 - rho) * change)
