"""Edits in h: from codes of images and a shift to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Interval
from zsem.diffusion.schedule import Spacing, TimeGrid
from zsem.diffusion.solvers import last
from zsem.hspace.asyrp import asyrp, asyrp_grid
from zsem.hspace.collect import batches, of_rows
from zsem.hspace.editable import Editable, condition_of, decode
from zsem.hspace.engine import Edited, Shifts
from zsem.models.diffusion import Classes
from zsem.models.imaging import U_MAX, Progress, evaluation
from zsem.models.shift import LearnedShift
from zsem.values.codes import Codes
from zsem.values.direction import Direction, Shift
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition


def symmetric(
    model: Editable,
    codes: Codes,
    shift: Shift,
    *,
    gain: float | int = 1.0,
    interval: Interval | None = None,
    classes: Classes = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Pixels of codes, decoded with `Edited`: float32, nominally in [-1, 1], not clipped.

    With a shift or gain of 0 they are what `model.decode` makes of the codes, to the bit.
    codes: of images, with noise; those without are given fresh noise, a function of (seed, position).
    gain: how far to extrapolate from the plain prediction; for a learned shift what it was trained at (`gain_of`).
    interval: first and last timestep, both inclusive, at which h is edited: (t_edit, T - 1).
    classes: of a model that is conditional on them, as they were given to `invert`.
    Raises ZsemError where the codes or the direction belong to another model.
    """
    check_shift(model, shift)

    def steer(cond: Condition, _: slice) -> BoundDenoiser:
        return bind(Edited(model.denoiser, shift, gain, interval=interval), cond)

    return decode(model, codes, classes=classes, seed=seed, batch_size=batch_size, steer=steer, progress=progress)


def asymmetric(
    model: Editable,
    codes: Codes,
    shift: Shift,
    *,
    t_edit: float | int,
    t_boost: float | int = 0,
    steps: int | None = None,
    spacing: Spacing = "uniform",
    classes: Classes = None,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Pixels of codes by the published process (`asyrp`): float32, nominally in [-1, 1], not clipped.

    It starts from x_T alone. With a shift of 0 and t_boost 0 it is DDIM; codes of the codec "ddim" decode to the same.
    steps: with levels forced at t_edit and t_boost; None = the levels of the codes.
    seed: of the noise below t_boost, a function of (seed, position, step), and of x_T where the codes have none.
    first: position of the first image, so that many can be made in parts.
    Other arguments and errors as for `symmetric`; ZsemError also for codes without levels and no `steps`.
    """
    check_shift(model, shift)
    if codes.model and codes.model != model.stamp:
        raise ZsemError(f"these codes belong to model {codes.model}, this is {model.stamp}: encode the images again")
    if steps is not None:
        grid = asyrp_grid(model.schedule, steps, t_edit=t_edit, t_boost=t_boost, spacing=spacing, u_max=U_MAX)
    elif codes.steps:
        levels = torch.tensor(codes.timesteps, dtype=torch.float64)
        grid = TimeGrid.from_levels(model.schedule, t=levels, clean=True)
    else:
        raise ZsemError("these codes have no noise levels of their own: say how many steps to take")
    out = []
    for rows in batches(len(codes), batch_size):
        part = codes[rows]
        cond = condition_of(model, part, of_rows(classes, rows))
        noise = part.noise or model.fresh_noise(len(part), seed=seed, first=first + rows.start)
        fresh = model.step_noise(seed, range(first + rows.start, first + rows.stop))
        x_T = noise.x_T.to(model.device)
        with evaluation(model):
            walk = asyrp(model.denoiser, cond, x_T, grid, shift, t_edit=t_edit, t_boost=t_boost, noise=fresh)
            out.append(model.crop(last(walk)[0]).float().cpu())
        if progress is not None:
            progress(rows.stop, len(codes))
    return torch.cat(out)


def with_gain(terms: Sequence[tuple[float, Shift]], gain: float | None = None) -> tuple[float, Shifts]:
    """Amounts of shifts as a gain for all of them, and what is left for their amounts.

    To first order in a shift amount and gain are one: their product tells how far it goes. But of small shifts of h the
    network gives a better account than of large ones, and a gain leaves h where it knows it.
    gain: by default the amount that goes furthest, so that its own shift is added once.
    A learned shift was trained at a gain of its own, by which its amount is multiplied.
    """
    amounts = [amount * gain_of(shift) for amount, shift in terms]
    if gain is None:
        gain = max((abs(amount) for amount in amounts), default=0.0)
    if gain == 0:
        return 0.0, Shifts([])
    return gain, Shifts([(amount / gain, shift) for amount, (_, shift) in zip(amounts, terms, strict=True)])


def gain_of(shift: Shift) -> float:
    """The gain that a shift was trained at; 1 where it was not trained."""
    return shift.config.gain if isinstance(shift, LearnedShift) else 1.0


def check_shift(model: Editable, shift: Shift) -> None:
    """Raise ZsemError for a direction or a learned shift that is none in this model's h. Other shifts do not tell."""
    if isinstance(shift, LearnedShift) and shift.model != model.stamp:
        raise ZsemError(f"the learned shift {shift.name!r} belongs to model {shift.model}, this is {model.stamp}")
    if not isinstance(shift, Direction):
        return
    if shift.space != "h":
        raise ZsemError(f"the direction {shift.name!r} is in {shift.space}: find one with `zsem directions --space h`")
    if shift.model != model.stamp:
        raise ZsemError(f"the direction {shift.name!r} belongs to model {shift.model}, this is {model.stamp}")
    ours, theirs = model.bottleneck_shape, tuple(shift.vector.shape[-3:])
    if theirs not in {ours, (ours[0], 1, 1)}:
        raise ZsemError(f"the direction {shift.name!r} has shape {list(theirs)}, and h of this model {list(ours)}")
