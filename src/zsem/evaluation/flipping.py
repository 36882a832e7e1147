"""Attributes flipped in held-out images: what an independent judge sees of it, and the truth where it can be drawn.

What every table of edits stands on, whatever edits: `bench edit` in z, the study of h-space in h.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zsem.data.builtin import counterfactual
from zsem.data.images import ImageSet
from zsem.metrics.editing import Calibration, EditEffect, EditFigures
from zsem.metrics.intervals import Interval
from zsem.models.imaging import ImageModel
from zsem.models.judge import Judge
from zsem.semantics.attributes import BEYOND, TYPICAL
from zsem.semantics.edits import INTERVAL, RESCALE, SCALE
from zsem.values import draws
from zsem.values.errors import ZsemError

LOW, HIGH = 0.1, 0.9
"""Probabilities that are asked for, of images that have the attribute and that lack it."""
EDIT = (SCALE, RESCALE, *INTERVAL, TYPICAL, BEYOND)
"""Defaults of a request's edit, which results depend on."""
SHOWN = 8
ORDER_DRAW = 0  # the last integer of a draw's name: what the draw is for
COLUMNS = {
    "change": "change of target", "hit": "edits seen", "before": "seen before", "leakage": "leakage",
    "requested": "|achieved - requested|", "error": "MSE to truth", "unedited": "MSE unedited",
    "nearer": "nearer to truth", "outside": "MSE outside",
}  # fmt: skip
"""Figures of `EditFigures` and what they are called in tables."""
SHARES = {"hit", "before", "nearer"}
SMALL = {"error", "unedited", "outside"}
MEANING = (
    "Change of target: mean change of the probability towards the request. Edits seen: share of the pictures that the "
    "judge takes for what was asked; seen before: of the pictures as they were. Leakage: changes of all other "
    "attributes, but of classes that exclude it, over the net change of the target. "
    "|achieved - requested|: median. MSE to truth: to the same face drawn anew with the attribute flipped; beside it "
    "that of the unedited image. MSE outside: change of pixels in which the truth does not differ."
)
"""What the columns mean."""


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Images in which one attribute is to be flipped.

    rows: which of the edited images they are. before: the judge's probabilities. requested: what is asked for.
    truth: each one's counterfactual, None where there is none.
    """

    name: str
    rows: list[int]
    images: ImageSet
    before: Float[Tensor, "n a"]
    requested: Float[Tensor, " n"]
    truth: UInt8[Tensor, "n c h w"] | None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one method made of the flips.

    intervals: 95 %, of some of the figures. shown: the edited pictures. after: what the judge sees in them.
    """

    figures: EditFigures
    intervals: Mapping[str, Interval]
    shown: UInt8[Tensor, "n c h w"]
    after: Float[Tensor, "n a"]


class Flipping:
    """The held-out images that are edited, and the judge.

    The judge's probabilities are calibrated on those held-out images that are not edited. Where the images are avatars,
    the truth of every edit is drawn: the same face with the attribute flipped.
    """

    def __init__(
        self,
        model: ImageModel,
        images: ImageSet,
        judge: Judge,
        *,
        number: int,
        batch_size: int,
        seed: int,
        classes: Collection[str] = (),
    ) -> None:
        """model: which edits. images: with 0/1 attributes, those of the judge among them. number: how many are edited.

        classes: attributes of which every image has at most one.
        Raises ZsemError where the images lack an attribute of the judge, or it cannot be calibrated on the rest.
        """
        if foreign := [name for name in judge.config.attributes if name not in images.attributes]:
            raise ZsemError(
                f"the judge knows {foreign[0]}, which {images.source} has no labels for: give another judge"
            )
        self.model, self.judge, self.batch_size, self.seed = model, judge, batch_size, seed
        self.classes = frozenset(classes)
        held_out = images.held_out()
        order = order_of(len(held_out), seed)
        self.edited, self.others = held_out.subset(order[:number]), held_out.subset(order[number:])
        self.folder = Path(images.source) if (Path(images.source) / "avatars.json").exists() else None
        labels = np.stack([self.others.attributes[name] for name in judge.config.attributes], axis=1)
        for name, column in zip(judge.config.attributes, labels.T, strict=True):
            if len(np.unique(column[~np.isnan(column)])) < 2:
                raise ZsemError(
                    f"the {len(self.others)} held-out images that calibrate the judge all have one label of {name} or "
                    "none: hold out more, lower the number, or leave this attribute out"
                )
        self.calibration = Calibration().fit(judge.logits(self.others), torch.from_numpy(labels))
        self.before = self.seen(self.edited.pixels)

    def seen(self, pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n a"]:
        """The judge's calibrated probabilities."""
        return self.calibration(self.judge.logits(pixels))

    def flips(self, name: str) -> Flips:
        """The images in which an attribute can be flipped (`flippable`), at least one."""
        known = self.flippable(name)
        images = self.edited.subset(list(known))
        drawn = [picture for picture in known.values() if picture is not None]
        return Flips(
            name=name, rows=list(known), images=images, before=self.before[list(known)],
            requested=requested(images, name), truth=torch.stack(drawn) if drawn else None,
        )  # fmt: skip

    def exclusive(self, name: str) -> frozenset[str]:
        """Attributes of which an image has one at most, where this is one of them; it is among them."""
        return self.classes if name in self.classes else frozenset()

    def measure(self, flips: Flips, edit: Callable[[slice], Float[Tensor, "b c h w"]]) -> Measured:
        """The effect of an edit: from rows of the flips, a batch at a time, to images, nominally in [-1, 1]."""
        exclusive = self.exclusive(flips.name)
        effect, shown, seen = EditEffect(self.judge.config.attributes, flips.name, exclusive=exclusive), [], []
        for rows in self.parts(len(flips)):
            edited = edit(rows)
            shown.append(self.model.display(edited))
            seen.append(self.seen(shown[-1]))
            effect.update(
                flips.before[rows], seen[-1], flips.requested[rows],
                images=(self.floats(flips.images.pixels[rows]), edited.clamp(-1, 1)),
                truth=None if flips.truth is None else self.floats(flips.truth[rows]),
            )  # fmt: skip
        return Measured(
            figures=effect.compute(), intervals=effect.intervals(seed=self.seed), shown=torch.cat(shown),
            after=torch.cat(seen),
        )  # fmt: skip

    def flippable(self, name: str) -> dict[int, UInt8[Tensor, "c h w"] | None]:
        """The images with a label for the attribute, and the true counterfactual of each where they are avatars.

        Left out are faces that cannot have it: no hair is seen under a hat.
        """
        if self.folder is not None:
            return dict(counterfactuals(self.folder, self.edited, name))
        return dict.fromkeys(np.flatnonzero(~np.isnan(self.edited.attributes[name])).tolist())

    def floats(self, pixels: Tensor) -> Float[Tensor, "n c h w"]:
        """Stored pixels in [-1, 1]."""
        return self.model.config.intensity.normalise(pixels)

    def parts(self, number: int) -> Iterator[slice]:
        """Rows, a batch at a time."""
        for start in range(0, number, self.batch_size):
            yield slice(start, start + self.batch_size)


def counterfactuals(folder: Path, images: ImageSet, name: str) -> dict[int, UInt8[Tensor, "c h w"]]:
    """Avatars of a folder drawn anew with an attribute flipped, by their rows, but for those that cannot have it."""
    out = {}
    for i, (path, value) in enumerate(zip(images.paths, images.attributes[name], strict=True)):
        with contextlib.suppress(ZsemError):
            out[i] = counterfactual(folder, int(Path(path).stem), name, bool(value < 0.5))
    return out


def requested(images: ImageSet, name: str) -> Float[Tensor, " n"]:
    """Probabilities that are asked for where an attribute is flipped, float64."""
    return torch.from_numpy(np.where(images.attributes[name] > 0.5, LOW, HIGH))


def order_of(number: int, seed: int) -> list[int]:
    """Held-out images in the order in which they are edited; those that are left calibrate the judge."""
    return draws.generator(seed, ORDER_DRAW).permutation(number).tolist()


def check_number(number: int, images: ImageSet) -> None:
    """Raise ZsemError where too few images are held out to edit so many, and calibrate the judge on as many more."""
    held_out = len(images.held_out())
    if held_out < 2 * number:
        raise ZsemError(
            f"{number} images are edited and as many more calibrate the judge, and only {held_out} are "
            "held out: lower the number, or hold out more"
        )


def means(results: Sequence[Mapping[str, EditFigures]], methods: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Every figure's mean over attributes, by method.

    results: the figures of every attribute, by method. methods: in their order; those without figures are left out.
    """
    out: dict[str, dict[str, float | None]] = {}
    for method in methods:
        rows = [asdict(result[method]) for result in results if method in result]
        if rows:
            out[method] = {
                key: None if any(row[key] is None for row in rows) else float(np.mean([row[key] for row in rows]))
                for key in rows[0]
                if key != "n"
            }
    return out


def jsonable(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Intervals as JSON has them."""
    return {name: asdict(ends) for name, ends in intervals.items()}


def text(key: str, value: float | None) -> str:
    """A figure of `COLUMNS` as people read it."""
    if value is None:
        return ""
    if key in SHARES:
        return f"{value:.0%}"
    return f"{value:.4f}" if key in SMALL else f"{value:.2f}"
