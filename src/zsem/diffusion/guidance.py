"""Wrappers that steer a denoiser; each answers with a consistent Prediction, so they nest in any order.

A wrapper's denoiser has its condition fixed (`bind`) or not; then the wrapper is told the condition and passes it on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zsem.diffusion.schedule import level_like
from zsem.values.prediction import BoundDenoiser, Condition, Denoiser, NoiseLevels, Prediction

Interval = tuple[float | int, float | int]
LogProb = Callable[[Tensor, Tensor], Tensor]
"""log p(y | x_t) from x_t, [b, c, h, w], and t, [b], both float32: [b]."""
Scalar = Callable[[Tensor], Tensor]
"""One number per image, the more the better, of predicted x0, [b, c, h, w], float32: [b]."""


class Steered:
    """A denoiser that answers with a change to the answer of another one.

    rowwise: whether each image of a batch is answered for itself alone, so that two conditions may share one batch.
    """

    _alike = True  # whether it does the same to every image, whatever the batch

    def __init__(self, denoise: BoundDenoiser | Denoiser) -> None:
        self._denoise = denoise

    @property
    def schedule(self) -> NoiseLevels:
        return self._denoise.schedule

    @property
    def rowwise(self) -> bool:
        return self._alike and is_rowwise(self._denoise)


def is_rowwise(denoise: BoundDenoiser | Denoiser) -> bool:
    """Whether a denoiser treats each image of a batch for itself alone; networks do."""
    return denoise.rowwise if isinstance(denoise, Steered) else True


class Clip(Steered):
    """A denoiser whose x0 is clipped to [-1, 1] and whose eps follows, as DDPM's code does when it samples.

    Never inside the exact codec: clipping cannot be undone.
    """

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], *cond: Condition) -> Prediction:
        """One evaluation of the network."""
        prediction = self._denoise(x_t, t, *cond)
        alpha, sigma = level_like(self.schedule, t, x_t)
        u = sigma / alpha
        return prediction.steer((prediction.x0 - prediction.x0.clamp(-1, 1)) / u, u)


class Extrapolate:
    """A bound denoiser whose eps is eps_base + scale (eps_cond - eps_base).

    With no condition as base it is classifier-free guidance (2207.12598, eq. 6, scale = w + 1); with the old z of an
    image as base and the new one as condition it is delta guidance of an edit.
    """

    def __init__(
        self,
        denoise: Denoiser,
        base: Condition,
        cond: Condition,
        scale: float | int,
        *,
        rescale: float | int = 0.0,
        interval: Interval | None = None,
    ) -> None:
        """Where nothing is to be extrapolated one condition is evaluated alone, and the answer is the plain one.

        scale: 1 = none (`cond` alone is evaluated), 0 = `base` alone.
        rescale: 0..1, how far the standard deviation of the guided x0 is pulled to that of x0 under `cond`
            (2305.08891, eq. 15 and 16).
        interval: first and last timestep, both inclusive, at which it acts (2404.07724); elsewhere `cond` alone.
        Raises ValueError for a rescale outside 0..1.
        """
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale must lie in 0..1, not {rescale}")
        self._denoise = denoise
        self._base = base
        self._cond = cond
        self._scale = scale
        self._rescale = rescale
        self._interval = interval
        self._plain = scale == 1 or base.equal(cond)

    @property
    def schedule(self) -> NoiseLevels:
        return self._denoise.schedule

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Prediction:
        """One evaluation of the network, on twice the batch where it acts."""
        if self._plain:
            return self._denoise(x_t, t, self._cond)
        if idle(self._interval, t):
            return self._denoise(x_t, t, self._cond)
        if self._scale == 0 and self._interval is None:
            return self._denoise(x_t, t, self._base)
        base, cond = self._both(x_t, t)
        alpha, sigma = level_like(self.schedule, t, x_t)
        u = sigma / alpha
        guided = cond.steer((self._scale - 1) * (cond.eps - base.eps), u)
        if self._rescale > 0:
            ratio = _deviation(cond.x0) / _deviation(guided.x0)
            guided = guided.steer(self._rescale * (1 - ratio) / u * guided.x0, u)
        return cond.steer(limited(guided.eps - cond.eps, self._interval, t), u)

    def _both(self, x_t: Tensor, t: Tensor) -> tuple[Prediction, Prediction]:
        """The predictions under base and cond, in one evaluation where both tell the network the same things."""
        alike = (self._base.z is None) == (self._cond.z is None)
        alike = alike and (self._base.classes is None) == (self._cond.classes is None)
        if not (alike and is_rowwise(self._denoise)):
            return self._denoise(x_t, t, self._base), self._denoise(x_t, t, self._cond)
        both = self._denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), Condition.cat(self._base, self._cond))
        return _map(both, lambda x: x[: len(x_t)]), _map(both, lambda x: x[len(x_t) :])


class ClassifierGuidance(Steered):
    """A denoiser steered along the gradient of log p(y | x_t), the logarithm of what a classifier of noisy images says.

    The score form adds -sigma scale grad to eps (ADM, algorithm 2) and serves every solver. The mean form adds
    scale grad to mean_shift (ADM, algorithm 1), which the solver ddpm multiplies by the variance of its step.
    """

    _alike = False  # y belongs to the images of one batch

    def __init__(
        self,
        denoise: BoundDenoiser | Denoiser,
        log_prob: LogProb,
        scale: float | int,
        *,
        form: Literal["score", "mean"] = "score",
        interval: Interval | None = None,
    ) -> None:
        """Where nothing is added `log_prob` is not evaluated, and the answer is the plain one.

        log_prob: (x_t, t) -> log p(y | x_t), [b], each image's a function of that image; given float32.
        scale: 0 = none; 1 samples p(x | y) where the classifier is exact; more sharpens it.
        interval: first and last timestep, both inclusive, at which it acts.
        """
        super().__init__(denoise)
        self._log_prob = log_prob
        self._scale = scale
        self._form = form
        self._interval = interval

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], *cond: Condition) -> Prediction:
        """One evaluation of the network; one of the classifier, forward and backward, where it acts."""
        prediction = self._denoise(x_t, t, *cond)
        if self._scale == 0 or idle(self._interval, t):
            return prediction
        gradient = _gradient(lambda x: self._log_prob(x, t.float()), x_t)
        pull = limited(self._scale * gradient, self._interval, t)
        if self._form == "mean":
            before = prediction.mean_shift
            return replace(prediction, mean_shift=pull if before is None else before + pull)
        alpha, sigma = level_like(self.schedule, t, x_t)
        return prediction.steer(-sigma * pull, sigma / alpha)


class SemanticGuidance(Steered):
    """A denoiser steered so that a weighted sum of scalars of the predicted x0 grows (2112.05744; 2302.07121).

    eps gets -sigma times the gradient of the sum with respect to x_t, as if the sum were a log p(y | x_t): e.g. minus
    the distance to one image's content and minus the distance to another one's style.
    """

    _alike = False  # the scalars may compare each image with its own target

    def __init__(
        self,
        denoise: BoundDenoiser | Denoiser,
        terms: Sequence[tuple[float | int, Scalar]],
        *,
        through: Literal["denoiser", "x0"] = "denoiser",
        normalise: bool = False,
        interval: Interval | None = None,
    ) -> None:
        """Where nothing is added no scalar is evaluated, and the answer is the plain one.

        terms: weights and scalars; a scalar maps x0 in float32 to [b], each image's a function of that image.
        through: "denoiser" = the gradient goes back through the network; "x0" = eps is taken for constant, so that
            dx0 / dx_t = 1 / alpha, at a fraction of the cost and memory.
        normalise: bring the gradient of each scalar to a root mean square of 1 in every image; a weight of 1 then moves
            eps by sigma, whatever the scalar's unit and the noise level.
        interval: first and last timestep, both inclusive, at which it acts.
        """
        super().__init__(denoise)
        self._terms = [(weight, scalar) for weight, scalar in terms if weight != 0]
        self._through = through
        self._normalise = normalise
        self._interval = interval

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], *cond: Condition) -> Prediction:
        """One evaluation of the network, and its backward pass where the gradient goes through it."""
        if not self._terms or idle(self._interval, t):
            return self._denoise(x_t, t, *cond)
        alpha, sigma = level_like(self.schedule, t, x_t)
        if self._through == "x0":
            prediction = self._denoise(x_t, t, *cond)
            with torch.enable_grad():
                x0 = prediction.x0.detach().requires_grad_()
                gradient = self._ascent(x0, x0, 1 / alpha)
        else:
            inner = torch.is_grad_enabled() and x_t.requires_grad  # another guidance wants its gradient through this
            with torch.enable_grad():
                x = x_t if inner else x_t.detach().requires_grad_()
                prediction = self._denoise(x, t, *cond)
                gradient = self._ascent(prediction.x0, x, torch.ones_like(alpha))
            prediction = prediction if inner else _map(prediction, Tensor.detach)
        return prediction.steer(-sigma * limited(gradient, self._interval, t), sigma / alpha)

    def _ascent(self, x0: Tensor, source: Tensor, factor: Tensor) -> Tensor:
        """The gradient of the weighted sum at x0 with respect to `source`, times `factor` for each image."""
        values = [(weight, scalar(x0.float()).sum()) for weight, scalar in self._terms]
        if not self._normalise:
            total = torch.stack([weight * value for weight, value in values]).sum()
            return factor * torch.autograd.grad(total, source, retain_graph=True)[0]
        pull = torch.zeros_like(source)
        for weight, value in values:
            (gradient,) = torch.autograd.grad(value, source, retain_graph=True)
            size = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            pull = pull + weight * gradient / size.clamp(min=torch.finfo(size.dtype).tiny)
        return pull


def within(interval: Interval, t: Tensor) -> Bool[Tensor, " b"]:
    return (t >= interval[0]) & (t <= interval[1])


def idle(interval: Interval | None, t: Tensor) -> bool:
    """Whether none of the images is at a timestep where a guidance acts."""
    return interval is not None and not bool(within(interval, t).any())


def limited(values: Tensor, interval: Interval | None, t: Tensor) -> Tensor:
    """The values of the images that are at such a timestep, and 0 for the others."""
    return values if interval is None else torch.where(within(interval, t)[:, None, None, None], values, 0)


def _gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient at x of f(x in float32), [b], each image's with respect to that image, in x's dtype."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x.float()).sum(), x)[0]


def _deviation(x0: Tensor) -> Tensor:
    """Standard deviation over each image, [b, 1, 1, 1]; never 0, so that a blank image is left as it is."""
    return x0.std(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(x0.dtype).tiny)


def _map(prediction: Prediction, f: Callable[[Tensor], Tensor]) -> Prediction:
    """`f` of every tensor that is there."""
    given = {name: value for name, value in vars(prediction).items() if value is not None}
    return Prediction(**{name: f(value) for name, value in given.items()})
