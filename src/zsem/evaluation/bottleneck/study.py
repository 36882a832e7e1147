"""The study of h-space: what every method does, on the same flips and by the same figures as `bench edit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.evaluation.attributes import labelled_part
from zsem.evaluation.bottleneck.cells import Cell, Findings, read_cell
from zsem.evaluation.bottleneck.methods import FIXED, LENGTHS, METHODS
from zsem.evaluation.bottleneck.options import StudyOptions, check, check_networks
from zsem.evaluation.bottleneck.properties import SOLVER, Property, Setting, combination, lacking, properties
from zsem.evaluation.bottleneck.workshop import Faces, Method, Reference, Workshop, plain
from zsem.evaluation.flipping import EDIT, SHOWN, Flipping, Flips, requested
from zsem.evaluation.keeping import digest, fingerprint, read_kept, write_kept
from zsem.hspace.editable import Editable, condition_for, invert
from zsem.models.imaging import evaluation
from zsem.models.judge import Judge
from zsem.training.shifts import RECIPES, TUNING
from zsem.values import draws
from zsem.values.errors import ZsemError

PROTOCOL = 2
"""Results that were kept by another version of the study are made again."""
MORE = 3
"""How often the amounts that are tried may be doubled or halved, where the best one lies at an end."""
BACKWARD = 4
"""Cost of a step of training in evaluations of the network."""
TIMED = 4
"""Evaluations that the estimate is made from."""
CHOICE_DRAW = 5  # the last integer of a draw's name: what the draw is for


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
        classes: Collection[str] = (),
        reference: Reference | None = None,
        t_edit: float | int = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """images: with 0/1 attributes, those of the judge among them. folder: for what is done and what is trained.

        classes: attributes of which every image has at most one.
        reference: an autoencoder whose z_sem the trained methods ask; without it they are left out.
        t_edit: last timestep at which h is shifted; the nearest level of the walk is taken.
        Raises ZsemError for options that cannot be met, a model or an autoencoder that does not fit, and as `Flipping`.
        """
        check(options, model, images)
        check_networks(options, model, judge, reference)
        super().__init__(
            model, images, judge, number=options.number, batch_size=options.batch_size, seed=options.seed,
            classes=classes,
        )  # fmt: skip
        self.options, self.say, self.study_folder = options, say, Path(folder)
        self._tuning: dict[str, tuple[Faces, Float[Tensor, " n"]]] = {}
        levels = model.grid(options.steps).t[:-1]
        training = labelled_part(images.split("train"))
        order = draws.generator(options.seed, CHOICE_DRAW).permutation(len(training)).tolist()
        first, further = options.trained_from, more_to_learn_from(options, len(order))
        learning = training.subset([*order[:first], *order[len(order) - further :]])
        self.rest = training.subset(order[first : len(order) - further])  # amounts are chosen on the same ones always
        level = float(levels[(levels - t_edit).abs().argmin()])
        key = digest([
            PROTOCOL, model.stamp, fingerprint(learning), fingerprint(self.rest), about_z_sem(reference), level,
            options.steps, options.trained_from, options.shift_iterations, options.tuning_iterations,
        ])  # fmt: skip
        self.shop = Workshop(
            model=model, learning=learning, trained_from=first, attributes=judge.config.attributes, reference=reference,
            folder=self.study_folder / "trained" / key, t_edit=level, steps=options.steps,
            shift_iterations=options.shift_iterations, tuning_iterations=options.tuning_iterations,
            batch_size=options.batch_size, say=say,
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
        found, studied = Findings(), list[Flips]()
        asked = "asks the z_sem of an autoencoder, and none was given"
        found.left_out = [f"{METHODS[m].title}: {asked}" for m in self.options.methods if m not in self.methods]
        self.say(f"about {self.estimate() / 60:.0f} minutes on this machine, if nothing is done yet")
        for name in self.options.attributes:
            flips = self.flips(name)
            if not flips.rows:
                found.left_out.append(f"{name}: none of the images can have it flipped")
                continue
            found.rows[name] = {"original": flips.images.pixels[:SHOWN]}
            if flips.truth is not None:
                found.rows[name]["truth"] = flips.truth[:SHOWN]
            found.cells[name] = {method: self.cell(flips, method) for method in self.methods}
            studied.append(flips)
        if self.options.of_properties:
            self.add_properties(found, studied)
        return found

    def add_properties(self, found: Findings, studied: Sequence[Flips]) -> None:
        """What shifts are like, for the attributes that were studied; what cannot be told is left out, and said."""
        if "mean" not in self.methods:
            found.left_out.append("what shifts are like: that is told of the mean difference, which --methods lacks")
            return
        for flips in studied:
            if several := self.property_cells(flips, found.cells[flips.name]):
                found.properties[flips.name] = several
            else:
                found.left_out.append(f"what shifts of {flips.name} are like: none of the edited images lacks it")
        for pair, rows in self.pairs(found.cells).items():
            if not rows:
                found.left_out.append(f"combination of {' and '.join(pair)}: none of the edited images lacks both")
        if several := self.combined(found.cells):
            found.properties["combination"] = several

    def cell(self, flips: Flips, method: str) -> Cell:
        """One attribute by one method, from its file where it was done."""
        origin = self.cell_origin(flips.name, method)
        path = self.file(f"{plain(flips.name)}-{method}", origin)
        if (kept := read_kept(path, origin)) is not None:
            return read_cell(*kept)
        self.share(flips.name, method)
        started, waited = time.monotonic(), self.shop.waited
        made = METHODS[method].find(self.shop, flips.name)
        found = time.monotonic()
        waited = self.shop.waited - waited
        amount, tried = self.chosen(flips.name, made)
        chosen = time.monotonic()
        faces = self.faces[flips.rows]

        def edit(rows: slice) -> Tensor:
            part = list(range(*rows.indices(len(faces))))
            return both_ways(made, faces[part], flips.requested[rows], amount)

        measured = self.measure(flips, edit)
        # a training counts whole, also where it was done before or went on where it was stopped
        trained = self.shop.spent.get((flips.name, METHODS[method].trains or ""), 0.0)
        find = found - started - waited + trained
        seconds = {"find": find, "choose": chosen - found, "edit": time.monotonic() - chosen}
        given, taken = (self.share_seen(flips, measured.after, lacked) for lacked in (True, False))
        cell = Cell(
            figures=measured.figures, intervals=measured.intervals, given=given, taken=taken, amount=amount,
            tried=tried, seconds={k: round(v, 2) for k, v in seconds.items()}, pictures=measured.shown[:SHOWN],
        )  # fmt: skip
        write_kept(path, origin, cell.summary(), {"pictures": cell.pictures})
        self.say(f"{flips.name}, {METHODS[method].title}: {cell.figures.hit:.0%} seen, {sum(seconds.values()):.0f} s")
        return cell

    def share(self, name: str, method: str) -> None:
        """Make what a method shares with others, so that it is charged to none of them."""
        _ = self.faces
        if METHODS[method].in_h:
            _ = self.shop.collected
        if method not in FIXED:
            self.tuning_faces(name)

    def share_seen(self, flips: Flips, after: Float[Tensor, "n a"], lacked: bool) -> float | None:
        """Share of edits that the judge sees, of the images that lacked the attribute, or of those that had it."""
        rows = (flips.requested > 0.5) == lacked
        column = self.judge.config.attributes.index(flips.name)
        return float(((after[rows, column] > 0.5) == lacked).double().mean()) if rows.any() else None

    def chosen(self, name: str, method: Method) -> tuple[float, dict[str, float]]:
        """The amount that comes nearest to what is asked for on training images, to the judge; and what was tried.

        Nearest: the least sum over attributes of |achieved - requested|, where all others are asked to stay, but for
        classes that exclude this one. Where the best lies at an end, half or twice as much is tried as well.
        """
        if len(method.amounts) == 1:
            return method.amounts[0], {}
        faces, asked = self.tuning_faces(name)
        wanted, counted = faces.before.clone(), self.counted(name)
        wanted[:, self.judge.config.attributes.index(name)] = asked.to(wanted)
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
            tried[amount] = float((after - wanted)[:, counted].abs().sum(dim=1).mean())
        best = min(tried, key=lambda amount: tried[amount])
        return best, {f"{amount:g}": gap for amount, gap in sorted(tried.items())}

    def counted(self, name: str) -> list[int]:
        """Columns of the judge by which the amount for an attribute is chosen."""
        known = self.judge.config.attributes
        spared = set() if self.options.regardless else set(known) - self.exclusive(name)
        return [column for column, other in enumerate(known) if other == name or other in spared]

    def tuning_faces(self, name: str) -> tuple[Faces, Float[Tensor, " n"]]:
        """Training images, half of them with the attribute, and what is asked for.

        No direction in h was found from them; the judge has seen the originals.
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
        """What the shifts of one attribute are like; nothing where none of the images lacks it."""
        rows = [row for row, asked in zip(flips.rows, flips.requested, strict=True) if asked > 0.5]
        if not rows:
            return []
        amounts = {method: cells[method].amount for method in ("mean", "asymmetric", "f_t") if method in cells}
        asks = "f_t" in amounts
        options = ["of_properties", "consistent_steps", *(["trained_from", LENGTHS["f_t"]] if asks else [])]
        origin = self.origin(flips.name, "properties", asks=asks, options=options)
        origin |= {"amounts": amounts, "solver": SOLVER}

        def make() -> list[Property]:
            return properties(self.setting, flips.name, self.faces[rows[: self.options.of_properties]], amounts)

        return self.kept_properties(f"{plain(flips.name)}-properties", origin, make)

    def pairs(self, names: Iterable[str]) -> dict[tuple[str, str], list[int]]:
        """Every two attributes that an image may have at once, and the images that are given both."""
        pairs = [pair for pair in combinations(names, 2) if not self.classes.issuperset(pair)]
        return {pair: lacking(self.edited, pair)[: self.options.of_properties] for pair in pairs}

    def combined(self, cells: Mapping[str, Mapping[str, Cell]]) -> list[Property]:
        """Two attributes at once, for every two that some image lacks."""
        amounts = {name: of["mean"].amount for name, of in cells.items()}
        pairs = {pair: rows for pair, rows in self.pairs(cells).items() if rows}
        if not pairs:
            return []
        origin = self.origin(None, "combination", options=["of_properties"]) | {"amounts": amounts}

        def make() -> list[Property]:
            return combination(self.setting, self.faces, amounts, pairs)

        return self.kept_properties("combination", origin, make)

    def kept_properties(
        self, name: str, origin: Mapping[str, Any], make: Callable[[], list[Property]]
    ) -> list[Property]:
        """Properties from their file, or made."""
        path = self.file(name, origin)
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

    def file(self, name: str, origin: Mapping[str, Any]) -> Path:
        """Where a result is kept; those of other options lie beside it."""
        return self.study_folder / "cells" / f"{name}-{digest(origin)}.safetensors"

    def cell_origin(self, name: str, method: str) -> dict[str, Any]:
        """What one attribute by one method depends on, JSON-able."""
        kind = METHODS[method]
        options = [] if method in FIXED else ["tuned_on", "regardless"]
        options += [] if kind.trains is None else ["trained_from", LENGTHS[kind.trains]]
        return self.origin(name, method, asks=kind.asks, options=options)

    def origin(self, name: str | None, what: str, *, asks: bool = False, options: Sequence[str] = ()) -> dict[str, Any]:
        """What a result depends on, JSON-able. asks: whether z_sem was asked. options: that matter to it."""
        return {
            "protocol": PROTOCOL, "model": self.model.stamp, "judge": self.judge.stamp, "attribute": name, "what": what,
            "images": self.fingerprints, "t_edit": self.shop.t_edit,
            "options": {option: getattr(self.options, option) for option in ("seed", "steps", *options)},
            "z_sem": about_z_sem(self.shop.reference) if asks else None,
        }  # fmt: skip

    def estimate(self) -> float:
        """Seconds of all that may have to be done, from the time that the network takes for one batch."""
        options, once = self.options, self.seconds_per_image()
        levels = len([t for t in self.model.grid(options.steps).t[:-1].tolist() if t >= self.shop.t_edit])
        trainings = {  # images that they pass through the network at every level
            "f_t": options.shift_iterations * RECIPES["corrected"].settings.batch_size,
            "tuned": 2 * options.tuning_iterations * TUNING.settings.batch_size,  # there and back
        }
        total = options.steps * (options.number + len(self.shop.learning))
        for method in self.methods:
            tried = 0 if method in FIXED else options.tuned_on * 6
            total += len(options.attributes) * METHODS[method].cost * options.steps * (options.number + tried)
        kinds = {METHODS[method].trains for method in self.methods}
        for what, number in trainings.items():
            if what in kinds:
                total += len(options.attributes) * number * levels * BACKWARD
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


def more_to_learn_from(options: StudyOptions, training: int) -> int:
    """Images that directions are found from beside those of the trainings; half of all stay for other ends."""
    return max(min(options.learned_from, training // 2) - options.trained_from, 0)


def about_z_sem(reference: Reference | None) -> list[Any] | None:
    """What results depend on that ask an autoencoder, JSON-able."""
    return None if reference is None else [reference.model.stamp, reference.labels, *EDIT]


def both_ways(method: Method, faces: Faces, requested: Float[Tensor, " n"], amount: float) -> Float[Tensor, "n c h w"]:
    """Images edited towards what is asked for: given the attribute, or it is taken away."""
    out = torch.empty(len(faces), *faces.codes.shape)
    for sign in (1, -1):
        rows = torch.nonzero((requested > 0.5) == (sign > 0)).flatten().tolist()
        if rows:
            out[rows] = method.edit(faces[rows], sign, amount)
    return out
