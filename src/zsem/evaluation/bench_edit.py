"""How good edits are: flipped attributes of held-out images, before an independent judge and beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.evaluation.attributes import labelled_part
from zsem.evaluation.flipping import EDIT, SHOWN, Flipping, check_number, jsonable, means
from zsem.evaluation.keeping import cleaned, fingerprint, read_kept, write_kept
from zsem.metrics.editing import EditFigures, monotonicity
from zsem.metrics.intervals import Interval
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.judge import Judge
from zsem.semantics.attributes import Semantics, learn
from zsem.semantics.edits import edit
from zsem.values import draws
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError

AMOUNTS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
"""Probabilities of the test whether more is more."""
PAPER, DEFAULT = "logistic", "constrained"
"""The direction of the paper, and ours."""
MASKED = f"{DEFAULT}, automatic mask"
RANDOM, ORACLE = "random", "oracle"
"""The ends of every scale: a step as long as the default's to nowhere, and the code of the true counterfactual."""
METHODS = (PAPER, "mean", DEFAULT, MASKED, RANDOM, ORACLE)
PROTOCOL = 3
"""Results that were kept by another version of the protocol are made again."""
ALIKE = 1e-3
"""Directions that differ by less, as a share of their length, are the same but for rounding on another machine."""
RANDOM_DRAW = 1  # the last integer of a draw's name: what the draw is for (0 in `flipping`)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How much is measured."""

    number: int = 200
    """held-out images that are edited, once for every attribute and method"""
    amounts_of: int = 32
    """of them, images that go through all amounts; 0 leaves that out"""
    methods: tuple[str, ...] = METHODS
    """what is compared; the default among it"""
    attributes: tuple[str, ...] = ()
    """what is edited; all that the judge knows where nothing is said"""
    batch_size: int = 25
    """images at a time"""
    seed: int = 0
    """of choices and random steps"""


@dataclass(frozen=True, kw_only=True)
class AttributeResult:
    """The edits of one attribute."""

    name: str
    methods: Mapping[str, EditFigures]
    intervals: Mapping[str, Mapping[str, Interval]]
    """95 % bootstrap intervals of some of the figures, by method."""
    monotonicity: float | None
    """Mean rank correlation of amount and what the judge sees, of the default method; None where it was left out."""
    pictures: Mapping[str, UInt8[Tensor, "n c h w"]]
    """The first images and what became of them, by what is written beside them."""


class EditBench(Flipping):
    """The protocol on one autoencoder and one set of images: edits in z."""

    model: DiffusionAutoencoder

    def __init__(
        self,
        model: DiffusionAutoencoder,
        images: ImageSet,
        semantics: Semantics,
        judge: Judge,
        options: BenchOptions = BenchOptions(),
        *,
        classes: Collection[str] = (),
    ) -> None:
        """images: with 0/1 attributes, those of the judge among them. semantics: learned from training images alone.

        classes: attributes of which every image has at most one.
        Raises ZsemError where the judge knows none of the attributes, or others than the images have, or there are too
        few held-out images to calibrate it on.
        """
        check(options, images)
        self.semantics, self.options = semantics, options
        self.names = [n for n in judge.config.attributes if n in semantics.attributes and semantics[n].binary]
        if not self.names:
            raise ZsemError("the judge knows none of the 0/1 attributes that were learned: give the one of this data")
        if options.attributes:
            if unknown := [name for name in options.attributes if name not in self.names]:
                raise ZsemError(f"{unknown[0]} cannot be edited: choose among {', '.join(self.names)}")
            self.names = list(options.attributes)
        super().__init__(
            model, images, judge, number=options.number, batch_size=options.batch_size, seed=options.seed,
            classes=classes,
        )  # fmt: skip
        self.codes = model.encode(self.edited, batch_size=options.batch_size)

    def run(
        self, say: Callable[[str], None] = lambda _: None, folder: str | Path | None = None
    ) -> list[AttributeResult]:
        """All attributes in turn.

        say: told when one is done. folder: where each one's result is kept when it is done, and found the next time if
        model, images, judge, options and directions are still the same.
        """
        results = []
        for name in self.names:
            file = None if folder is None else Path(folder) / self.file(name)
            if file is not None and (kept := read_result(file, self.origin(), self.directions(name))) is not None:
                say(f"{name}: measured before")
                results.append(kept)
                continue
            if not self.flippable(name):
                say(f"{name}: none of the images can have it flipped")
                continue
            results.append(self.attribute(name))
            if file is not None:
                write_result(file, results[-1], self.origin(), self.directions(name))
            default = results[-1].methods[DEFAULT]
            leakage = "unknown" if default.leakage is None else f"{default.leakage:.2f}"
            say(f"{name}: {default.hit:.0%} of the edits are seen, leakage {leakage}")
        return results

    def file(self, name: str) -> str:
        """What an attribute's result is kept as; the number tells names apart that differ in other characters alone."""
        return f"{self.names.index(name):03}-{cleaned(name)}.safetensors"

    def origin(self) -> dict[str, Any]:
        """What the results depend on but for the directions, JSON-able."""
        options = {name: value for name, value in asdict(self.options).items() if name != "batch_size"}
        return {
            "protocol": PROTOCOL, "model": self.model.stamp, "judge": self.judge.stamp,
            "images": [fingerprint(self.edited), fingerprint(self.others)],
            "options": options, "edit": list(EDIT),
        }  # fmt: skip

    def directions(self, name: str) -> Float[Tensor, "m d"]:
        """The directions that are compared."""
        return torch.stack([self.semantics.direction(name, method).vector for method in (PAPER, "mean", DEFAULT)])

    def attribute(self, name: str) -> AttributeResult:
        """Flip one attribute by every method, in every image in which that can be done (`flippable`), at least one."""
        flips = self.flips(name)
        codes = self.codes[torch.tensor(flips.rows)]
        effects, intervals, pictures = {}, {}, {"original": flips.images.pixels[:SHOWN]}
        for method in self.options.methods:
            z = self.target(method, name, codes, flips.requested, flips.truth)
            if z is None:
                continue
            found = self.measure(flips, lambda rows, z=z, method=method: self.decode(codes[rows], z[rows], method))
            effects[method], intervals[method] = found.figures, found.intervals
            if method in {PAPER, DEFAULT, MASKED}:
                pictures[method] = found.shown[:SHOWN]
        if flips.truth is not None:
            pictures["truth"] = flips.truth[:SHOWN]
        monotone = self.amounts(name, codes) if self.options.amounts_of else None
        return AttributeResult(
            name=name, methods=effects, intervals=intervals, monotonicity=monotone, pictures=pictures
        )

    def target(
        self, method: str, name: str, codes: Codes, requested: Tensor, truth: Tensor | None
    ) -> Float[Tensor, "n d"] | None:
        """Where a method moves the codes; None for the oracle where there is no truth."""
        if method == ORACLE:
            return None if truth is None else self.model.encode(truth, noise=False, batch_size=64).z
        if method == RANDOM:
            return self.somewhere(codes.z, self.moved(codes.z, name, requested, DEFAULT), name)
        return self.moved(codes.z, name, requested, DEFAULT if method == MASKED else method)

    def moved(
        self, z: Tensor, name: str, requested: Tensor, method: Any, *, exact: bool = False
    ) -> Float[Tensor, "n d"]:
        """Codes at the requested probabilities, reached as `Semantics.move` does."""
        out = z.clone()
        for value in requested.unique().tolist():
            rows = requested == value
            out[rows] = self.semantics.move(z[rows], {name: value}, method=method, exact=exact, quiet=True)
        return out

    def somewhere(self, z: Tensor, aim: Tensor, name: str) -> Float[Tensor, "n d"]:
        """Codes moved as far as `aim` is, in units of the training images' spread, each in a direction of its own."""
        # the covariance's root makes steps that are as likely in every direction, before they are given their length
        root = torch.linalg.cholesky(self.semantics.covariance.double())
        names = [(self.options.seed, self.names.index(name), i, RANDOM_DRAW) for i in range(len(z))]
        white = draws.normal(names, (z.shape[1],)).double()
        std = self.semantics.std.double()
        length = torch.linalg.solve_triangular(root, ((aim - z).double() / std).T, upper=False).norm(dim=0)
        step = (white / white.norm(dim=1, keepdim=True) * length[:, None]) @ root.T
        return z + (step * std).to(z)

    def decode(self, codes: Codes, z: Float[Tensor, "n d"], method: str) -> Float[Tensor, "n c h w"]:
        """Pixels in [-1, 1], with the edit's defaults."""
        mask = "auto" if method == MASKED else None
        return edit(self.model, codes, z, mask=mask, batch_size=self.options.batch_size)

    def amounts(self, name: str, codes: Codes) -> float:
        """Whether a larger request is a larger change."""
        some = codes[: self.options.amounts_of]
        column = list(self.judge.config.attributes).index(name)
        seen = []
        for amount in AMOUNTS:
            asked = torch.full((len(some),), amount, dtype=torch.float64)
            z = self.moved(some.z, name, asked, DEFAULT, exact=True)
            parts = [self.model.display(self.decode(some[rows], z[rows], DEFAULT)) for rows in self.parts(len(some))]
            seen.append(self.seen(torch.cat(parts))[:, column])
        return monotonicity(torch.stack(seen, dim=1))


def check(options: BenchOptions, images: ImageSet) -> None:
    """Raise ZsemError for numbers that nothing can be measured with, on these images; takes no time."""
    for field, least in (("number", 1), ("amounts_of", 0), ("batch_size", 1)):
        if getattr(options, field) < least:
            raise ZsemError(f"--{field.replace('_', '-')} must be at least {least}, not {getattr(options, field)}")
    if unknown := [method for method in options.methods if method not in METHODS]:
        raise ZsemError(f"--methods {unknown[0]} is none: choose among {', '.join(METHODS)}")
    if DEFAULT not in options.methods:
        raise ZsemError(f"--methods must have {DEFAULT} among them, which the others are compared with")
    check_number(options.number, images)


def semantics_of(
    model: DiffusionAutoencoder, images: ImageSet, labels: int, *, classes: Collection[str] = ()
) -> Semantics:
    """What the attributes mean, learned from so many training images.

    classes: attributes of which every image has at most one.
    """
    some = labelled_part(images.split("train")).limit(labels)
    z = model.encode(some, noise=False, batch_size=64).z
    return learn(z, some.attributes, model, classes=classes, groups=some.groups or None)


def write_result(
    path: Path, result: AttributeResult, origin: Mapping[str, Any], directions: Float[Tensor, "m d"]
) -> None:
    """Keep the result of one attribute, whole or not at all, with what it depends on."""
    pictures = {f"picture {i}": pixels for i, pixels in enumerate(result.pictures.values())}
    known = {**measured(result), "name": result.name, "pictures": list(result.pictures)}
    write_kept(path, origin, known, {**pictures, "directions": directions})


def read_result(path: Path, origin: Mapping[str, Any], directions: Float[Tensor, "m d"]) -> AttributeResult | None:
    """What `write_result` kept; None where there is nothing, or it depends on something else.

    Raises ZsemError where the file is damaged.
    """
    kept = read_kept(path, origin)
    if kept is None:
        return None
    known, tensors = kept
    if tensors["directions"].shape != directions.shape:
        return None
    if (torch.dist(tensors["directions"], directions) > ALIKE * directions.norm()).item():
        return None
    return AttributeResult(
        name=known["name"], monotonicity=known["monotonicity"],
        methods={method: EditFigures(**figures) for method, figures in known["methods"].items()},
        intervals={method: {k: Interval(**v) for k, v in ends.items()} for method, ends in known["intervals"].items()},
        pictures={name: tensors[f"picture {i}"] for i, name in enumerate(known["pictures"])},
    )  # fmt: skip


def measured(result: AttributeResult) -> dict[str, Any]:
    """The figures of one attribute, JSON-able."""
    return {
        "monotonicity": result.monotonicity,
        "methods": {method: asdict(figures) for method, figures in result.methods.items()},
        "intervals": {method: jsonable(intervals) for method, intervals in result.intervals.items()},
    }


def as_json(results: Sequence[AttributeResult]) -> dict[str, Any]:
    """The figures and their intervals: by attribute and method, and the means over attributes."""
    attributes = {result.name: measured(result) for result in results}
    return {"attributes": attributes, "mean": means([result.methods for result in results], METHODS)}
