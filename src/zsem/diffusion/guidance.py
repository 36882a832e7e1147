"""Wrappers that steer a denoiser; each answers with a consistent Prediction, so they nest in any order."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.schedule import level_like
from zsem.values.prediction import BoundDenoiser, Condition, Denoiser, NoiseLevels, Prediction


class Clip:
    """A bound denoiser whose x0 is clipped to [-1, 1] and whose eps follows, as DDPM's code does when it samples.

    Never inside the exact codec: clipping cannot be undone.
    """

    def __init__(self, denoise: BoundDenoiser) -> None:
        self._denoise = denoise

    @property
    def schedule(self) -> NoiseLevels:
        return self._denoise.schedule

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Prediction:
        """One evaluation of the network."""
        prediction = self._denoise(x_t, t)
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
        scale: float,
        *,
        rescale: float = 0.0,
        interval: tuple[float | int, float | int] | None = None,
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
        acts = torch.ones_like(t, dtype=torch.bool)
        if self._interval is not None:
            acts = (t >= self._interval[0]) & (t <= self._interval[1])
            if not bool(acts.any()):
                return self._denoise(x_t, t, self._cond)
        elif self._scale == 0:
            return self._denoise(x_t, t, self._base)
        base, cond = self._both(x_t, t)
        alpha, sigma = level_like(self.schedule, t, x_t)
        u = sigma / alpha
        guided = cond.steer((self._scale - 1) * (cond.eps - base.eps), u)
        if self._rescale > 0:
            ratio = _deviation(cond.x0) / _deviation(guided.x0)
            guided = guided.steer(self._rescale * (1 - ratio) / u * guided.x0, u)
        return cond.steer(torch.where(acts[:, None, None, None], guided.eps - cond.eps, 0), u)

    def _both(self, x_t: Tensor, t: Tensor) -> tuple[Prediction, Prediction]:
        """The predictions under base and cond, in one evaluation where both tell the network the same things."""
        alike = (self._base.z is None) == (self._cond.z is None)
        alike = alike and (self._base.classes is None) == (self._cond.classes is None)
        if not alike:
            return self._denoise(x_t, t, self._base), self._denoise(x_t, t, self._cond)
        both = self._denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), Condition.cat(self._base, self._cond))
        return _rows(both, slice(None, len(x_t))), _rows(both, slice(len(x_t), None))


def _deviation(x0: Tensor) -> Tensor:
    """Standard deviation over each image, [b, 1, 1, 1]; never 0, so that a blank image is left as it is."""
    return x0.std(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(x0.dtype).tiny)


def _rows(prediction: Prediction, rows: slice) -> Prediction:
    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[rows]

    return Prediction(
        x0=prediction.x0[rows],
        eps=prediction.eps[rows],
        var_fraction=cut(prediction.var_fraction),
        mean_shift=cut(prediction.mean_shift),
    )
