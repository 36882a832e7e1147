"""The study of h-space: what every method does, on the same flips and by the same figures as `bench edit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.evaluation.attributes import labelled_part
from zsem.evaluation.bottleneck.methods import METHODS
from zsem.evaluation.bottleneck.options import StudyOptions, check, check_networks
from zsem.evaluation.bottleneck.properties import Property, Setting, combination, properties
from zsem.evaluation.bottleneck.workshop import Faces, Method, Reference, Workshop, learned
from zsem.evaluation.flipping import SHOWN, Flipping, Flips, jsonable, means, requested
from zsem.evaluation.keeping import fingerprint, read_kept, write_kept
from zsem.hspace.editable import Editable, condition_for, invert
from zsem.metrics.editing import EditFigures
from zsem.metrics.intervals import Interval
from zsem.models.imaging import evaluation
from zsem.models.judge import Judge
from zsem.semantics.edits import INTERVAL, RESCALE, SCALE
from zsem.training.shifts import RECIPES
from zsem.values import draws
from zsem.values.errors import ZsemError

PROTOCOL = 1
"""Results that were kept by another version of the study are made again."""
MORE = 3
"""How often the amounts that are tried may be doubled or halved, where the best one lies at an end."""
BACKWARD = 4
"""Cost of a step of training in evaluations of the network."""
TIMED = 4
"""Evaluations that the estimate is made from."""
CHOICE_DRAW = 5  # the last integer of a draw's name: what the draw is for


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attribute by one method.

    given, taken: shares of edits seen among images that lacked the attribute and that had it; None where there are
    none. amount: that was chosen; tried: mean |achieved - requested| by amount, on training images.
    seconds: "find" (or train), "choose" the amount, "edit". pictures: the first edited images.
    """

    figures: EditFigures
    intervals: Mapping[str, Interval]
    given: float | None
    taken: float | None
    amount: float
    tried: Mapping[str, float]
    seconds: Mapping[str, float]
    pictures: UInt8[Tensor, "n c h w"]

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **asdict(self.figures), "given": self.given, "taken": self.taken, "amount": self.amount,
            "tried": dict(self.tried), "seconds": dict(self.seconds), "intervals": jsonable(self.intervals),
        }  # fmt: skip


@dataclass(kw_only=True)
class Findings:
    """What the study has found: cells by attribute and method, properties by attribute, and what it left out.

    rows: pictures of the first images and of their counterfactuals, by attribute.
    """

    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    rows: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    properties: dict[str, list[Property]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """JSON-able."""
        figures = [{method: cell.figures for method, cell in cells.items()} for cells in self.cells.values()]
        return {
            "attributes": {
                name: {method: cell.summary() for method, cell in cells.items()} for name, cells in self.cells.items()
            },
            "mean": means(figures, list(METHODS)),
            "properties": {
                name: {one.name: one.figures for one in found} for name, found in self.properties.items()
            },
            "left_out": self.left_out,
        }  # fmt: skip


class HspaceStudy(Flipping):
    """Flips attributes by every method, with amounts that were chosen on training images."""

    model: Editable

    def __init__(
        self,
        model: Editable,
        images: ImageSet,
        judge: Judge,
        folder: str | Path,
        options: StudyOptions,
        *,
        reference: Reference | None = None,
        t_edit: float | int = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """images: with 0/1 attributes, those of the judge among them. folder: for what is done and what is trained.

        reference: an autoencoder whose z_sem the trained methods ask; without it they are left out.
        t_edit: last timestep at which h is shifted; the nearest level of the walk is taken.
        Raises ZsemError for options that cannot be met, a model or an autoencoder that does not fit, and as `Flipping`.
        """
        check(options, model, images)
        check_networks(options, model, judge, reference)
        super().__init__(model, images, judge, number=options.number, batch_size=options.batch_size, seed=options.seed)
        self.options, self.say, self.study_folder = options, say, Path(folder)
        self._tuning: dict[str, tuple[Faces, Float[Tensor, " n"]]] = {}
        levels = model.grid(options.steps).t[:-1]
        training = labelled_part(images.split("train"))
        order = draws.generator(options.seed, CHOICE_DRAW).permutation(len(training)).tolist()
        learning = training.subset(order[: options.learned_from])
        self.rest = training.subset(order[options.learned_from :])
        self.shop = Workshop(
            model=model, learning=learning, attributes=judge.config.attributes, reference=reference,
            folder=self.study_folder / "trained", t_edit=float(levels[(levels - t_edit).abs().argmin()]),
            steps=options.steps, latents=options.learned_from, shift_iterations=options.shift_iterations,
            tuning_iterations=options.tuning_iterations, batch_size=options.batch_size, say=say,
        )  # fmt: skip

    @property
    def methods(self) -> list[str]:
        """Those that can be made."""
        return [m for m in self.options.methods if self.shop.reference is not None or not METHODS[m].asks]

    @cached_property
    def faces(self) -> Faces:
        """All images that are edited, with their noise."""
        return self.with_noise(self.edited, self.before)

    @property
    def setting(self) -> Setting:
        """What properties are measured with."""
        return Setting(flipping=self, shop=self.shop, consistent_steps=self.options.consistent_steps)

    def with_noise(self, images: ImageSet, before: Float[Tensor, "n a"]) -> Faces:
        """Images as methods take them."""
        codes = invert(self.model, images, steps=self.options.steps, batch_size=self.batch_size)
        return Faces(images=images, codes=codes, before=before)

    def run(self) -> Findings:
        """All attributes by all methods, and the properties; what was done before is found."""
        found = Findings()
        asked = "asks the z_sem of an autoencoder, and none was given"
        found.left_out = [f"{METHODS[m].title}: {asked}" for m in self.options.methods if m not in self.methods]
        self.say(f"about {self.estimate() / 60:.0f} minutes of one processor, if nothing is done yet")
        for name in self.options.attributes:
            flips = self.flips(name)
            if not flips.rows:
                found.left_out.append(f"{name}: none of the images can have it flipped")
                continue
            found.rows[name] = {"original": flips.images.pixels[:SHOWN]}
            if flips.truth is not None:
                found.rows[name]["truth"] = flips.truth[:SHOWN]
            found.cells[name] = {method: self.cell(flips, method) for method in self.methods}
            if self.options.of_properties and "mean" in self.methods:
                found.properties[name] = self.property_cells(flips, found.cells[name])
        if self.options.of_properties and "mean" in self.methods and len(found.cells) > 1:
            found.properties["combination"] = self.combinations(found.cells)
        return found

    def cell(self, flips: Flips, method: str) -> Cell:
        """One attribute by one method, from its file where it was done."""
        path = self.study_folder / "cells" / f"{flips.name}-{method}.safetensors"
        origin = self.origin(method)
        if (kept := read_kept(path, origin)) is not None:
            return read_cell(*kept)
        started = time.monotonic()
        made = METHODS[method].find(self.shop, flips.name)
        found = time.monotonic()
        amount, tried = self.chosen(flips.name, made)
        chosen = time.monotonic()
        faces = self.faces[flips.rows]

        def edit(rows: slice) -> Tensor:
            part = list(range(*rows.indices(len(faces))))
            return both_ways(made, faces[part], flips.requested[rows], amount)

        measured = self.measure(flips, edit)
        seconds = {"find": found - started, "choose": chosen - found, "edit": time.monotonic() - chosen}
        if method == "f_t":  # a training that went on where it was stopped took longer
            seconds["find"] = max(seconds["find"], 60 * learned(self.shop, flips.name).history.get("minutes", 0))
        given, taken = (self.share_seen(flips, measured.after, lacked) for lacked in (True, False))
        cell = Cell(
            figures=measured.figures, intervals=measured.intervals, given=given, taken=taken, amount=amount,
            tried=tried, seconds={k: round(v, 2) for k, v in seconds.items()}, pictures=measured.shown[:SHOWN],
        )  # fmt: skip
        write_kept(path, origin, cell.summary(), {"pictures": cell.pictures})
        self.say(f"{flips.name}, {METHODS[method].title}: {cell.figures.hit:.0%} seen, {sum(seconds.values()):.0f} s")
        return cell

    def share_seen(self, flips: Flips, after: Float[Tensor, "n a"], lacked: bool) -> float | None:
        """Share of edits that the judge sees, of the images that lacked the attribute, or of those that had it."""
        rows = (flips.requested > 0.5) == lacked
        column = self.judge.config.attributes.index(flips.name)
        return float(((after[rows, column] > 0.5) == lacked).double().mean()) if rows.any() else None

    def chosen(self, name: str, method: Method) -> tuple[float, dict[str, float]]:
        """The amount with the least mean |achieved - requested| to the judge, on training images; and what was tried.

        Where the best lies at an end, half or twice as much is tried as well.
        """
        if len(method.amounts) == 1:
            return method.amounts[0], {}
        faces, asked = self.tuning_faces(name)
        column = self.judge.config.attributes.index(name)
        tried: dict[float, float] = {}
        waiting = list(method.amounts)
        for _ in range(len(waiting) + MORE):
            if not waiting:
                low, high = min(tried), max(tried)
                best = min(tried, key=lambda amount: tried[amount])
                waiting = [low / 2] if best == low else [2 * high] if best == high and 2 * high <= method.most else []
            if not waiting:
                break
            amount = waiting.pop(0)
            after = self.seen(self.model.display(both_ways(method, faces, asked, amount)))
            tried[amount] = float((after[:, column] - asked).abs().mean())
        best = min(tried, key=lambda amount: tried[amount])
        return best, {f"{amount:g}": gap for amount, gap in sorted(tried.items())}

    def tuning_faces(self, name: str) -> tuple[Faces, Float[Tensor, " n"]]:
        """Training images that nothing was learned from, half of them with the attribute, and what is asked for.

        Raises ZsemError where there are none of one kind.
        """
        if name not in self._tuning:
            values, half = self.rest.attributes[name], max(self.options.tuned_on // 2, 1)
            sides = [np.flatnonzero(values == kind)[:half].tolist() for kind in (0, 1)]
            if not all(sides):
                raise ZsemError(f"too few training images have or lack {name} to choose an amount on: give more")
            images = self.rest.subset(sides[0] + sides[1])
            faces = self.with_noise(images, self.seen(images.pixels))
            self._tuning[name] = (faces, requested(images, name))
        return self._tuning[name]

    def property_cells(self, flips: Flips, cells: Mapping[str, Cell]) -> list[Property]:
        """What the shifts of one attribute are like."""
        amounts = {method: cells[method].amount for method in ("mean", "asymmetric", "f_t") if method in cells}

        def make() -> list[Property]:
            rows = [row for row, asked in zip(flips.rows, flips.requested, strict=True) if asked > 0.5] or flips.rows
            return properties(self.setting, flips.name, self.faces[rows[: self.options.of_properties]], amounts)

        return self.kept_properties(f"{flips.name}-properties", {"amounts": amounts}, make)

    def combinations(self, cells: Mapping[str, Mapping[str, Cell]]) -> list[Property]:
        """Two attributes at once."""
        amounts = {name: of["mean"].amount for name, of in cells.items()}

        def make() -> list[Property]:
            return combination(self.setting, self.faces, amounts, self.options.of_properties)

        return self.kept_properties("combination", {"amounts": amounts}, make)

    def kept_properties(
        self, name: str, about: Mapping[str, Any], make: Callable[[], list[Property]]
    ) -> list[Property]:
        """Properties from their file, or made."""
        path = self.study_folder / "cells" / f"{name}.safetensors"
        origin = self.origin("properties") | dict(about)
        if (kept := read_kept(path, origin)) is not None:
            known, tensors = kept
            return [Property.of(one, tensors, number) for number, one in enumerate(known["properties"])]
        made = make()
        tensors = {key: rows for number, one in enumerate(made) for key, rows in one.tensors(number).items()}
        write_kept(path, origin, {"properties": [one.about() for one in made]}, tensors)
        self.say(f"{name}: done")
        return made

    @cached_property
    def fingerprints(self) -> list[str]:
        """Names of the images that are edited, calibrate, are learned from, and are tuned on."""
        return [fingerprint(part) for part in (self.edited, self.others, self.shop.learning, self.rest)]

    def origin(self, method: str) -> dict[str, Any]:
        """What a result depends on, JSON-able."""
        options = {k: v for k, v in asdict(self.options).items() if k not in {"attributes", "methods"}}
        reference = self.shop.reference
        return {
            "protocol": PROTOCOL, "model": self.model.stamp, "judge": self.judge.stamp, "method": method,
            "images": self.fingerprints,
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
            "t_edit": self.shop.t_edit, "edit": [SCALE, RESCALE, *INTERVAL],
            "reference": None if reference is None else reference.model.stamp,
        }  # fmt: skip

    def estimate(self) -> float:
        """Seconds of all that may have to be done, from the time that the network takes for one batch."""
        options, once = self.options, self.seconds_per_image()
        levels = len([t for t in self.model.grid(options.steps).t[:-1].tolist() if t >= self.shop.t_edit])
        iterations = {"f_t": options.shift_iterations, "tuned": 2 * options.tuning_iterations}
        total = options.steps * (options.number + options.learned_from)
        for method in self.methods:
            tried = (options.tuned_on * 5) if METHODS[method].cost != 2 and method != "z_sem" else 0
            total += len(options.attributes) * METHODS[method].cost * options.steps * (options.number + tried)
            trained = iterations.get(method, 0) * RECIPES["corrected"].settings.batch_size * levels * BACKWARD
            total += len(options.attributes) * trained
        walks = 16 + 4 * sum(options.consistent_steps) / options.steps
        total += len(options.attributes) * options.of_properties * options.steps * walks
        return once * total

    def seconds_per_image(self) -> float:
        """Of one evaluation of the network, in a batch."""
        model = self.model
        number = min(self.batch_size, len(self.edited))
        x = model.fresh_noise(number).x_T.to(model.device)
        t = torch.full((number,), self.shop.t_edit, device=model.device)
        with evaluation(model):
            cond = condition_for(model, x, None)
            model.denoiser(x, t, cond)
            started = time.monotonic()
            for _ in range(TIMED):
                model.denoiser(x, t, cond)
        return (time.monotonic() - started) / (TIMED * number)


def both_ways(method: Method, faces: Faces, requested: Float[Tensor, " n"], amount: float) -> Float[Tensor, "n c h w"]:
    """Images edited towards what is asked for: given the attribute, or it is taken away."""
    out = torch.empty(len(faces), *faces.codes.shape)
    for sign in (1, -1):
        rows = torch.nonzero((requested > 0.5) == (sign > 0)).flatten().tolist()
        if rows:
            out[rows] = method.edit(faces[rows], sign, amount)
    return out


def read_cell(known: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Cell:
    """What `Cell.summary` says, with its pictures."""
    names = list(EditFigures.__dataclass_fields__)
    return Cell(
        figures=EditFigures(**{name: known[name] for name in names}),
        intervals={name: Interval(**ends) for name, ends in known["intervals"].items()},
        given=known["given"], taken=known["taken"], amount=known["amount"], tried=known["tried"],
        seconds=known["seconds"], pictures=tensors["pictures"],
    )  # fmt: skip
