"""Directions from files, and edits in the bottleneck h and in noisy images x_t, for `zsem edit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsem.cli.edits import Edited, Plan, units
from zsem.cli.images import classes_for, open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor

    from zsem.cli.edits import Edit
    from zsem.data.images import ImageSet
    from zsem.hspace.editable import Editable
    from zsem.hspace.intervals import Phases
    from zsem.models.shift import NamedShift
    from zsem.values.direction import Shift

    Terms = list[tuple[float, NamedShift]]
    Made = tuple[Tensor, Callable[[], Tensor]]  # edited images, and how the same are made without the edit


def read_terms(files: Sequence[str], *, name: str | None, amount: float) -> Terms:
    """Amounts and directions of files, each written FILE or FILE=AMOUNT; `name` chooses where a file has several.

    Raises ZsemError where a file is none, an amount is no number, or a choice is missing.
    """
    from zsem.models.shift import load_shifts

    terms: Terms = []
    for entry in files:
        file, equals, given = entry.rpartition("=")
        if Path(entry).exists() or not equals:
            file, given = entry, str(amount)
        try:
            strength = float(given)
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength):
            raise ZsemError(f"--direction {entry} has an amount that is no number: write FILE=1.5")
        known = {direction.name: direction for direction in load_shifts(file)}
        if name is None and len(known) > 1:
            raise ZsemError(f"{file} has several directions: choose one of {', '.join(known)} with --name")
        alone = len(known) == 1 and len(files) > 1  # the name is for another one of the files
        if name is not None and name not in known and not alone:
            raise ZsemError(f"{file} has no direction {name!r}: choose one of {', '.join(known)}")
        terms.append((strength, next(iter(known.values())) if name is None or alone else known[name]))
    spaces = sorted({direction.space for _, direction in terms})
    if len(spaces) > 1:
        raise ZsemError(f"directions in {' and '.join(spaces)} do not add up: edit with one kind after the other")
    return terms


def in_bottleneck(command: Edit, model: Editable, terms: Terms) -> tuple[Plan, Callable[[ImageSet, int], Edited]]:
    """How the edit is reported, and what makes it: from images and the first one's position."""
    from zsem.hspace.edits import check_shift

    make: Callable[[ImageSet, int], Made]
    if command.content is not None:
        make = _with_content(command, model)
    elif terms[0][1].space == "x":
        make = _at_level(command, model, terms)
    else:
        for _, direction in terms:
            check_shift(model, direction)
        make = _with_shift(command, model, terms)

    def change(images: ImageSet, first: int) -> Edited:
        results, plain = make(images, first)
        return Edited(
            originals=model.config.intensity.normalise(images.pixels), results=results, masks=None,
            reconstructions=plain() if command.full_size else None, before={}, after={},
        )  # fmt: skip

    plan = Plan(move=lambda z: z, scores=lambda z: {}, requested={}, unit=units(terms))
    return plan, change


def _with_shift(command: Edit, model: Editable, terms: Terms) -> Callable[[ImageSet, int], Made]:
    """Directions in h: along the exact codec's way, or the published process."""
    from zsem.hspace.boundary import Reach
    from zsem.hspace.editable import invert
    from zsem.hspace.edits import asymmetric, gain_of, symmetric, with_gain
    from zsem.hspace.engine import Shifts
    from zsem.values.direction import Direction

    ends = _phases(command, model, [one for _, one in terms])
    forced = {t for t in (ends.t_edit, ends.t_boost) if t > 0}
    symmetrical = command.mode == "symmetric"
    if not symmetrical and command.gain is not None:
        raise ZsemError("--gain goes with --mode symmetric: leave it out, or give a larger AMOUNT")
    summed: list[tuple[float, Shift]] = [
        (amount if symmetrical else amount * step_share(one, command.steps), one) for amount, one in terms
    ]
    if command.reach:
        reached = [(amount, one) for amount, one in terms if isinstance(one, Direction)]
        for _, direction in terms:
            if not isinstance(direction, Direction) or direction.slope is None or len(direction.timesteps) != 1:
                raise ZsemError(f"--reach is for boundaries, and {direction.name} is none: leave it out")
            if direction.timesteps[0] < ends.t_edit:
                raise ZsemError(
                    f"{direction.name} lies at timestep {direction.timesteps[0]:g}, below t_edit = {ends.t_edit:g}, "
                    "where nothing is edited: say --t-edit 0"
                )
            forced.add(direction.timesteps[0])
        summed = [(1.0, Reach(direction, amount)) for amount, direction in reached]
    gain, everything = 1.0 if command.gain is None else command.gain, Shifts(summed)
    if symmetrical and command.gain is None:
        gain, everything = with_gain(summed, max(gain_of(one) for _, one in summed))
    codec = "exact" if symmetrical else "ddim"
    grid = model.grid(command.steps, codec, forced=sorted(forced))

    def make(images: ImageSet, first: int) -> Made:
        classes = classes_for(model, images)
        codes = invert(model, images, classes=classes, codec=codec, grid=grid)

        def decoded(shift: Shift) -> Tensor:
            if symmetrical:
                interval = (ends.t_edit, model.schedule.timesteps - 1)
                return symmetric(model, codes, shift, gain=gain, interval=interval, classes=classes)
            return asymmetric(
                model,
                codes,
                shift,
                t_edit=ends.t_edit,
                t_boost=ends.t_boost,
                seed=command.seed,
                first=first,
                classes=classes,
            )

        return decoded(everything), lambda: decoded(Shifts([]))

    return make


def step_share(shift: NamedShift, steps: int) -> float:
    """S / S~ for a shift that was learned in the asymmetric process of S steps, whose strength adds up over them."""
    from zsem.models.shift import LearnedShift

    if not isinstance(shift, LearnedShift) or shift.config.mode != "asymmetric":
        return 1.0
    return shift.config.steps / steps


def _at_level(command: Edit, model: Editable, terms: Terms) -> Callable[[ImageSet, int], Made]:
    """Directions in x: the images are inverted to their noise level, moved there, and decoded."""
    from zsem.hspace.editable import decode
    from zsem.hspace.jacobian import moved, to_level
    from zsem.values.direction import Direction

    given = (command.t_edit, command.t_boost, command.gain) != (None, None, None)
    if given or command.reach or command.mode != "symmetric":
        raise ZsemError(
            "directions in x move images at one timestep of their own: leave out --mode, --t-edit, --reach and --gain"
        )
    directions = [(amount, one) for amount, one in terms if isinstance(one, Direction)]
    timestep = round(directions[0][1].timesteps[0])

    def make(images: ImageSet, first: int) -> Made:
        classes = classes_for(model, images)
        codes = to_level(model, images, timestep, steps=command.steps, classes=classes)
        edited = decode(model, moved(codes, directions), classes=classes)
        return edited, lambda: decode(model, codes, classes=classes)

    return make


def _with_content(command: Edit, model: Editable) -> Callable[[ImageSet, int], Made]:
    """The content of one reference image."""
    from zsem.hspace.collect import collect
    from zsem.hspace.editable import decode, invert
    from zsem.hspace.injection import inject

    if command.mode != "symmetric" or command.reach:
        raise ZsemError("--content is put into both halves of a step: leave out --mode and --reach")
    if not 0 <= command.gamma <= 1:
        raise ZsemError(f"--gamma must lie in 0..1, not {command.gamma:g}")
    assert command.content is not None
    shown = open_images(command.content, model, limit=2)
    if len(shown) != 1:
        raise ZsemError(f"{command.content} holds several images: give one file")
    t_edit, gain = _phases(command, model).t_edit, 1.0 if command.gain is None else command.gain
    reference, _ = collect(model, shown, classes=classes_for(model, shown), steps=command.steps)

    def make(images: ImageSet, first: int) -> Made:
        classes = classes_for(model, images)
        codes = invert(model, images, classes=classes, steps=command.steps)
        interval = (t_edit, model.schedule.timesteps - 1)
        mixed = inject(model, codes, reference, gamma=command.gamma, gain=gain, interval=interval, classes=classes)
        return mixed, lambda: decode(model, codes, classes=classes)

    return make


def _phases(command: Edit, model: Editable, shifts: Sequence[Shift] = ()) -> Phases:
    """Where the edit ends and boosting begins: as the command says, else by the curves beside the model.

    Learned shifts have been trained down to a timestep of theirs, and are not used below it.
    """
    from zsem.hspace.intervals import Curves, Phases, phases
    from zsem.models.base import find_model
    from zsem.models.shift import LearnedShift

    symmetrical = command.mode == "symmetric"
    if symmetrical and command.t_boost is not None:
        raise ZsemError("--t-boost goes with --mode asymmetric: the symmetric process adds no noise")
    for option, value in (("t-edit", command.t_edit), ("t-boost", command.t_boost)):
        if value is not None and not 0 <= value < model.schedule.timesteps:
            raise ZsemError(f"--{option} is a timestep, 0..{model.schedule.timesteps - 1}, not {value}")
    trained = [one.config.t_edit for one in shifts if isinstance(one, LearnedShift)]
    t_edit = command.t_edit if command.t_edit is not None or not trained else round(max(trained))
    file = find_model(command.model) / "hspace" / "intervals.json"
    boost = 0 if symmetrical else command.t_boost
    if file.exists():
        curves = Curves.load(file)
        if curves.model != model.stamp:
            raise ZsemError(f"{file} belongs to model {curves.model}: measure again with `zsem hspace intervals`")
        return phases(curves, t_edit=t_edit, t_boost=boost)
    if t_edit is None and not symmetrical:
        raise ZsemError("say where the edit ends with --t-edit, or measure it with `zsem hspace intervals`")
    return Phases(t_edit=t_edit or 0, t_boost=boost or 0, rule="given")
