"""Noise levels: the schedule that a network was trained on, and the grid of levels that a solver visits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from zsem.values.errors import ZsemError
from zsem.values.prediction import NoiseLevels

Spacing = Literal["logsnr", "uniform", "trailing", "karras"]

_KARRAS_RHO = 7.0  # EDM (2206.00364), table 1


def state_dtype(device: torch.device) -> torch.dtype:
    """The float type of solver states: float64 where the device has it, else float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def level_like(
    schedule: NoiseLevels, t: Float[Tensor, " b"], x: Float[Tensor, "b ..."]
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """alpha and sigma at timesteps t in x's dtype, [b, 1, ...], to multiply x, [b, ...]."""
    alpha, sigma = schedule.level(t)
    shape = (-1,) + (1,) * (x.ndim - 1)
    return alpha.to(x.dtype).view(shape), sigma.to(x.dtype).view(shape)


class NoiseSchedule:
    """The noise levels of a variance-preserving diffusion: x_t = alpha x0 + sigma eps, alpha^2 + sigma^2 = 1.

    Known at the timesteps 0..T-1 (the papers' t is one more); between them the log-SNR is interpolated linearly.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        kind: Literal["linear", "cosine", "constant"] = "linear"
        """shape of beta over time: linear (DDPM), cosine (improved DDPM, eq. 17) or constant"""
        timesteps: int = 1000
        """number of timesteps T"""
        beta_start: float = 1e-4
        """first beta of the linear schedule; not rescaled when T is not 1000"""
        beta_end: float = 0.02
        """last beta of the linear schedule"""
        beta: float = 0.008
        """beta of the constant schedule"""

    def __init__(self, config: Config = Config()) -> None:
        """Raises ZsemError where a beta is outside (0, 1) or there are fewer than two timesteps."""
        if config.timesteps < 2:
            raise ZsemError(f"a noise schedule needs at least 2 timesteps, not {config.timesteps}: set `timesteps`")
        with torch.device("cpu"):  # tables of numbers, also where networks are being laid out on the meta device
            betas = _betas(config)
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ZsemError("every beta of the noise schedule must lie strictly between 0 and 1: check its values")
        self.config = config
        self.timesteps: int = config.timesteps
        self.alphas_cumprod: Float64[Tensor, " T"] = torch.cumprod(1 - betas, 0)
        log_u = 0.5 * (torch.log1p(-self.alphas_cumprod) - torch.log(self.alphas_cumprod))
        self._log_u = {torch.device("cpu"): log_u}  # one copy per device, so that a step never waits for a transfer

    def level(self, t: Float[Tensor, "*n"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """alpha and sigma at real-valued timesteps t (clamped to 0..T-1), in float64 where the device has it."""
        twice = 2 * self._log_u_at(t)
        return torch.sigmoid(-twice).sqrt(), torch.sigmoid(twice).sqrt()

    def u(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """u = sigma/alpha, the noise level of EDM, at real-valued timesteps t (clamped to 0..T-1)."""
        return self._log_u_at(t).exp()

    def timestep_at(self, u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The real-valued timestep where sigma/alpha is u; levels outside the schedule get its first or last."""
        table = self._table(u.device)
        log_u = u.to(table.dtype).log().clamp(table[0], table[-1])
        above = torch.searchsorted(table, log_u.contiguous()).clamp(1, self.timesteps - 1)
        low, high = table[above - 1], table[above]
        return above - 1 + (log_u - low) / (high - low)

    def diffuse(
        self, x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = alpha x0 + sigma eps (DDPM, eq. 4), in x0's dtype."""
        alpha, sigma = level_like(self, t, x0)
        return alpha * x0 + sigma * eps

    def _log_u_at(self, t: Tensor) -> Tensor:
        table = self._table(t.device)
        t = t.to(table.dtype).clamp(0, self.timesteps - 1)
        low = t.floor().long()
        return torch.lerp(table[low], table[(low + 1).clamp(max=self.timesteps - 1)], t - low)

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._log_u:
            self._log_u[device] = self._log_u[torch.device("cpu")].to(device, state_dtype(device))
        return self._log_u[device]


def _betas(config: NoiseSchedule.Config) -> Float64[Tensor, " T"]:
    T = config.timesteps
    if config.kind == "linear":
        return torch.linspace(config.beta_start, config.beta_end, T, dtype=torch.float64)
    if config.kind == "constant":
        return torch.full((T,), config.beta, dtype=torch.float64)
    # improved DDPM, eq. 17; betas clipped at 0.999 as there
    at = torch.arange(T + 1, dtype=torch.float64) / T
    alphas_cumprod = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeGrid:
    """The noise levels that a solver visits, as float64 CPU tensors, [steps + 1].

    Node 0 is the noisiest and the last node the cleanest; `reversed()` turns that round. A node with u = 0 is the
    clean image (alpha 1, sigma 0); no network knows that level, so it carries the label of the smallest timestep.

    t: timestep that the network is told, in 0..T-1.
    alpha, sigma: x_t = alpha x0 + sigma eps.
    u: sigma / alpha.
    """

    t: Float64[Tensor, " n"]
    alpha: Float64[Tensor, " n"]
    sigma: Float64[Tensor, " n"]
    u: Float64[Tensor, " n"]

    @property
    def steps(self) -> int:
        """Number of solver steps: one fewer than there are nodes."""
        return len(self.t) - 1

    def reversed(self) -> TimeGrid:
        """The same nodes in opposite order: for encoding, from clean to noisy."""
        return TimeGrid(t=self.t.flip(0), alpha=self.alpha.flip(0), sigma=self.sigma.flip(0), u=self.u.flip(0))

    @staticmethod
    def make(
        schedule: NoiseSchedule,
        steps: int,
        spacing: Spacing = "logsnr",
        *,
        integer: bool = True,
        forced: Sequence[float | int] = (),
        u_max: float | None = None,
        cleanest: int = 0,
    ) -> TimeGrid:
        """A grid of `steps` noise levels and the clean node, for `steps` solver steps.

        steps: 1 to T, or to the number of timesteps that `u_max` and `cleanest` leave.
        spacing: even in log-SNR; even in t from the last to the first timestep; even in t and trailing (2305.08891,
            table 2); or Karras' (EDM, eq. 5, rho = 7). All begin at the last timestep that `u_max` allows.
        integer: visit whole timesteps only, as networks trained on them want; one that is taken moves to the next free.
        forced: timesteps that must be visited (rounded if `integer`), each in place of the nearest that need not be.
        u_max: leave out levels with sigma/alpha above this.
        cleanest: leave out timesteps below this; only forced ones may lie there.
        Raises ZsemError where the request cannot be met.
        """
        top = _top(schedule, integer, u_max)
        available = int(top) + 1 - cleanest
        if not 1 <= steps <= available:
            raise ZsemError(f"steps must lie between 1 and {available} on this noise schedule, not {steps}")
        levels = _spaced(schedule, steps, spacing, top, cleanest)
        if integer:
            levels = _distinct_integers(levels, int(top))
        if len(forced):
            wanted = sorted({float(round(t)) if integer else float(t) for t in forced})
            levels = _force(schedule, levels, wanted)
        return TimeGrid.from_levels(schedule, t=levels, clean=True)

    @staticmethod
    def strided(schedule: NoiseSchedule, steps: int) -> TimeGrid:
        """Timesteps 0, s, 2 s, .. of a whole stride s, as the official DDIM and DiffAE code choose them; then clean.

        Raises ZsemError where no stride gives so many: of a thousand numbers of steps those codes allow 62.
        """
        T = schedule.timesteps
        strides = {math.ceil(T / stride): stride for stride in range(T, 0, -1)}
        if steps not in strides:
            near = ", ".join(map(str, sorted(sorted(strides, key=lambda n: abs(n - steps))[:4])))
            raise ZsemError(f"the reference's spacing has no {steps} steps of {T} timesteps: take one of {near}")
        levels = torch.arange(0, T, strides[steps], dtype=torch.float64).flip(0)
        return TimeGrid.from_levels(schedule, t=levels, clean=True)

    @staticmethod
    def from_levels(
        schedule: NoiseSchedule,
        *,
        t: Float[Tensor, " n"] | None = None,
        u: Float[Tensor, " n"] | None = None,
        clean: bool = False,
    ) -> TimeGrid:
        """A grid of given, strictly falling noise levels: real-valued timesteps t or levels u = sigma/alpha.

        clean: append the clean node.
        Raises ValueError where the levels do not fall or the schedule does not have them.
        """
        if t is not None and u is None:
            t = t.double()
            alpha, sigma = schedule.level(t)
            u = sigma / alpha
        elif u is not None and t is None:
            u = u.double()
            t = schedule.timestep_at(u)
            alpha = (1 + u * u).rsqrt()
            sigma = u * alpha
        else:
            raise ValueError("give either t or u")
        if not bool((u.diff() < 0).all()):
            raise ValueError("the noise levels of a grid must fall strictly")
        inside = (t >= 0) & (t <= schedule.timesteps - 1) & torch.isclose(schedule.u(t), u, rtol=1e-9, atol=0)
        if not bool(inside.all()):
            raise ValueError("a level of the grid lies outside the noise schedule")
        if clean:
            zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            t, alpha, sigma, u = (torch.cat(pair) for pair in ((t, zero), (alpha, one), (sigma, zero), (u, zero)))
        return TimeGrid(t=t, alpha=alpha, sigma=sigma, u=u)


def _top(schedule: NoiseSchedule, integer: bool, u_max: float | None) -> float:
    """The noisiest timestep allowed: a whole one, or where sigma/alpha is `u_max`."""
    if u_max is None:
        return float(schedule.timesteps - 1)
    u = schedule.u(torch.arange(schedule.timesteps, dtype=torch.float64))
    allowed = int((u <= u_max * (1 + 1e-12)).sum())  # the margin absorbs the rounding of a u_max that is a level
    if allowed == 0:
        raise ZsemError(f"u_max = {u_max} is below every level of the noise schedule: use at least {float(u[0]):.3g}")
    return float(allowed - 1) if integer else float(schedule.timestep_at(torch.tensor(u_max, dtype=torch.float64)))


def _spaced(schedule: NoiseSchedule, steps: int, spacing: Spacing, top: float, cleanest: int) -> Float64[Tensor, " n"]:
    """Real-valued timesteps, falling from `top` to `cleanest`."""
    if spacing == "uniform":
        return torch.linspace(top, cleanest, steps, dtype=torch.float64)
    if spacing == "trailing":
        stride = (top + 1 - cleanest) / steps
        return top - stride * torch.arange(steps, dtype=torch.float64)
    noisy, clean = schedule.u(torch.tensor([top, cleanest], dtype=torch.float64)).tolist()
    if spacing == "karras":
        ends = noisy ** (1 / _KARRAS_RHO), clean ** (1 / _KARRAS_RHO)
        u = torch.linspace(*ends, steps, dtype=torch.float64) ** _KARRAS_RHO
    elif spacing != "logsnr":
        raise ZsemError(f"there is no spacing {spacing!r}; choose one of {', '.join(get_args(Spacing))}")
    else:
        u = torch.linspace(math.log(noisy), math.log(clean), steps, dtype=torch.float64).exp()
    return schedule.timestep_at(u)


def _distinct_integers(levels: Float64[Tensor, " n"], top: int) -> Float64[Tensor, " n"]:
    """Rounded levels; one that is taken moves up to the next free integer, or down where there is none up to `top`."""
    rank = torch.arange(len(levels), dtype=torch.float64)
    rising = levels.flip(0).round()
    rising = (rising - rank).cummax(0).values + rank
    return torch.minimum(rising, top - rank.flip(0)).flip(0)


def _force(schedule: NoiseSchedule, levels: Float64[Tensor, " n"], wanted: list[float]) -> Float64[Tensor, " n"]:
    """Put each wanted timestep in place of the level nearest in log-SNR; the noisiest level stays."""
    top = float(levels[0])
    if wanted[0] < 0 or wanted[-1] > top:
        raise ZsemError(f"forced timesteps must lie between 0 and {top:g}, not {wanted[0]:g} and {wanted[-1]:g}")
    kept = {top, *wanted}
    if len(kept) > len(levels):
        raise ZsemError(f"{len(levels)} steps cannot visit {len(kept)} forced timesteps: take more steps")
    chosen = set(levels.tolist())
    for t in wanted:
        if t in chosen:
            continue
        free = torch.tensor(sorted(chosen - kept), dtype=torch.float64)
        distance = (schedule.u(free).log() - schedule.u(torch.tensor(t, dtype=torch.float64)).log()).abs()
        chosen.remove(float(free[distance.argmin()]))
        chosen.add(t)
    return torch.tensor(sorted(chosen, reverse=True), dtype=torch.float64)
