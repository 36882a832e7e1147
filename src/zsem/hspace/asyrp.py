"""Asyrp as published (2210.10960): DDIM in three phases, which edits the predicted x0 and leaves its direction alone.

It is for replication, and for Theorem 1 (`hspace.theorem`). Edited x0 with plain eps is no consistent prediction, and
what one step changes is u times the change of eps, so that the strength of an edit grows with the number of steps;
`hspace.engine.Edited` has neither property and serves every solver.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.guidance import Steered
from zsem.diffusion.schedule import NoiseSchedule, Spacing, TimeGrid
from zsem.diffusion.solvers import NoiseSource, Step, Walk, fresh_deviation
from zsem.hspace.engine import Shifts, halves, predictions
from zsem.values.direction import Shift
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition, Prediction


def asyrp(
    denoise: NetworkDenoiser,
    cond: Condition,
    x: Float[Tensor, "b c h w"],
    grid: TimeGrid,
    shift: Shift,
    *,
    t_edit: float | int,
    t_boost: float | int = 0,
    noise: NoiseSource | None = None,
) -> Iterator[Step]:
    """The asymmetric reverse process, from x at the grid's first node: a solver with three phases (section 3).

    t >= t_edit: x_{t-1} = sqrt(abar_{t-1}) P_t(eps(x_t | h + shift)) + D_t(eps(x_t)), an edit; D_t belongs to the x_t
    of the edited process, as in the published code. Below: DDIM. t < t_boost: DDIM with eta 1 ("quality boosting").

    The encoder is evaluated once a step, the decoder twice where h is shifted. A shift of 0 with t_boost 0 walks as the
    solver ddim does, to the bit. `Step.prediction` is that of the shifted h.
    shift: as it is added to h; the published scaling is `scaled_as_published`.
    noise: standard normal noise of x's shape for a step index; needed for t_boost above the last node's timestep.
    Raises ValueError where noise is needed and is not given, or the grid leads from clean to noisy.
    """
    both = _Both(denoise, cond, shift, t_edit)
    walk = Walk(both, grid, x)
    walk.falling()
    levels = grid.t.tolist()
    xb = walk.start(x)
    for i in range(grid.steps):
        fresh = fresh_deviation(walk, i, eta=1 if levels[i] < t_boost else 0)
        eps = walk.predict(xb, i).eps
        xb = xb + (math.sqrt(walk.u[i + 1] ** 2 - fresh**2) - walk.u[i]) * eps
        if both.change is not None:
            xb = xb - walk.u[i] * both.change
        if fresh > 0:
            if noise is None:
                raise ValueError("asyrp with t_boost needs `noise`")
            xb = xb + fresh * noise(i).to(xb)
        yield Step(index=i, x=walk.alpha[i + 1] * xb, prediction=both.shifted, nfe=walk.nfe)


def asyrp_grid(
    schedule: NoiseSchedule,
    steps: int,
    *,
    t_edit: float | int,
    t_boost: float | int = 0,
    spacing: Spacing = "uniform",
    u_max: float | None = None,
) -> TimeGrid:
    """A grid on which the phases end where they should: t_edit and t_boost are levels of it.

    spacing, u_max: as for `TimeGrid.make`; the published one is even in t.
    Raises ZsemError where t_boost lies above t_edit, or they cannot be met.
    """
    if not 0 <= t_boost <= t_edit:
        raise ZsemError(f"an edit ends where quality boosting has not begun: t_boost {t_boost:g} <= t_edit {t_edit:g}")
    forced = [t for t in (t_edit, t_boost) if t > 0]
    return TimeGrid.make(schedule, steps, spacing=spacing, forced=forced, u_max=u_max)


def scaled_as_published(terms: Sequence[tuple[float | int, Shift]], *, trained_steps: int, steps: int) -> Shifts:
    """Shifts with the strengths that the published code gives them: c_i S / S~ / sqrt(n), of n attributes.

    terms: strengths c_i, which may be negative, and shifts f_i.
    trained_steps: S, of the process that the shifts were found on (section 3.4). steps: S~, of the one they are used
        on. A shift that was found for itself is smaller than it was alone where it is combined: that is the rule.
    """
    factor = trained_steps / steps / math.sqrt(max(len(terms), 1))
    return Shifts([(amount * factor, shift) for amount, shift in terms])


class _Both(Steered):
    """The plain denoiser, which beside keeps what the shift changes.

    change: of eps, [b, c, h, w]; None where nothing is edited. shifted: the prediction of the shifted h.
    """

    def __init__(self, denoise: NetworkDenoiser, cond: Condition, shift: Shift, t_edit: float | int) -> None:
        super().__init__(denoise)
        halves(denoise)
        self._network_denoiser, self._cond, self._shift, self._t_edit = denoise, cond, shift, t_edit
        self.change: Tensor | None = None
        self.shifted: Prediction

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Prediction:
        """One evaluation of the network, and one more of its decoder where h is shifted."""
        self.change = None
        if bool((t < self._t_edit).all()):
            self.shifted = self._network_denoiser(x_t, t, self._cond)
            return self.shifted
        plain, self.shifted = predictions(self._network_denoiser, x_t, t, self._cond, self._shift)
        assert plain is not None
        if plain is not self.shifted:
            self.change = self.shifted.eps - plain.eps
        return plain
