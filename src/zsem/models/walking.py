"""How a solver walks from noise to what a model makes, as one value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.guidance import Clip
from zsem.diffusion.posterior import Variance
from zsem.diffusion.schedule import NoiseSchedule, Spacing, TimeGrid
from zsem.diffusion.solvers import SOLVERS, NoiseSource, Step
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser


@dataclass(frozen=True, kw_only=True)
class Walking:
    """A solver, the noise levels that it visits, and what it does there."""

    solver: str = "unipc"
    """unipc, dpmpp_2m, heun, ddim, or ddpm (ancestral: hundreds of steps, spacing uniform)"""
    steps: int = 20
    """noise levels to visit"""
    spacing: Spacing = "logsnr"
    """how they are spread"""
    cleanest: int = 0
    """the least timestep that is visited, where the walk ends with the x0 predicted there (heun corrects it once more):
    small models learn the least noise last, and leave a grain of it on images that are walked to timestep 0"""
    eta: float | int = 0.0
    """share of fresh noise in the steps of ddim, 0..1; 1 is ddpm"""
    clip: bool = True
    """clip every prediction of x0, guided or not, to [-1, 1], as DDPM's sampler does"""

    def check_solver(self) -> None:
        """Raise ZsemError where there is no such solver or timestep, or it adds no noise and is asked to."""
        if self.solver not in SOLVERS:
            raise ZsemError(f"there is no solver {self.solver!r}; choose one of {', '.join(SOLVERS)}")
        if self.cleanest < 0:
            raise ZsemError(f"cleanest is a timestep, 0 or above, not {self.cleanest}")
        if not 0 <= self.eta <= 1 or (self.eta > 0 and self.solver != "ddim"):
            raise ZsemError(f"eta = {self.eta:g} must lie in 0..1 and is for the solver ddim alone")

    def grid(self, schedule: NoiseSchedule, *, u_max: float | None = None) -> TimeGrid:
        """The noise levels, of those with sigma/alpha up to `u_max`. ZsemError: more steps than there are timesteps."""
        return TimeGrid.make(schedule, self.steps, spacing=self.spacing, cleanest=self.cleanest, u_max=u_max)

    def walk(
        self,
        denoise: BoundDenoiser,
        x_T: Float[Tensor, "b c h w"],
        schedule: NoiseSchedule,
        noise: NoiseSource,
        *,
        variance: Variance = "small",
        u_max: float | None = None,
    ) -> Iterator[Step]:
        """The steps from x_T to clean; clipped last, so after all guidance.

        noise: standard normal noise of a step, for what adds some. variance: of the steps of ddpm.
        u_max: x_T stands at the noisiest level up to this sigma/alpha; None = of all.
        Raises ZsemError, where it is called, for more steps than there are timesteps from `cleanest` on.
        """
        grid = self.grid(schedule, u_max=u_max)
        own: dict[str, Any] = {"eta": self.eta, "noise": noise} if self.eta > 0 else {}
        if self.solver == "ddpm":
            own = {"noise": noise, "variance": variance}
        return SOLVERS[self.solver](Clip(denoise) if self.clip else denoise, x_T, grid, **own)
