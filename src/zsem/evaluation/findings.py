"""What an evaluation finds: figures with their n and interval, sentences, pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from zsem.metrics.intervals import Interval, interval_of_mean, wilson
from zsem.semantics.probes import RESAMPLES

Unit = Literal["share", "score", "squared error", "distance", "ratio"]
"""What a figure is: a share 0..1 (read in percent), a score, an error on the [0, 1] scale, a distance, a quotient."""
Grade = Literal["good", "fair", "poor", "none"]
"""What a sentence says of the model; none where there is no telling without others to compare with."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure, as results.json and the page have it."""

    of: str
    """What it is a figure of, e.g. a codec or an attribute."""
    name: str
    """What is measured."""
    value: float | None
    """The figure; None where it is none, e.g. a quotient by zero."""
    n: int
    """Of how many images, pairs or edits."""
    low: float | None
    """Lower end of the 95 % interval; None where there is none."""
    high: float | None
    """Upper end of it."""
    unit: Unit
    """What the value is."""
    meaning: str
    """What it tells, for people."""
    better: Literal["higher", "lower", ""]
    """Which way is good; empty where neither is."""

    @property
    def text(self) -> str:
        """The value as people read it."""
        return as_text(self.value, self.unit)

    @property
    def interval(self) -> str:
        """The interval as people read it; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{as_text(self.low, self.unit)} – {as_text(self.high, self.unit)}"


@dataclass(frozen=True)
class Measure:
    """A column of a table: what several figures have in common."""

    name: str
    unit: Unit
    meaning: str
    better: Literal["higher", "lower", ""] = ""

    def of(self, row: str, value: float | None, n: int, interval: Interval | None = None) -> Figure:
        """The figure of one row."""
        known = float(value) if value is not None and math.isfinite(value) else None
        return Figure(
            of=row, name=self.name, value=known, n=n,
            low=None if interval is None else interval.low, high=None if interval is None else interval.high,
            unit=self.unit, meaning=self.meaning, better=self.better,
        )  # fmt: skip

    def mean(self, row: str, values: Shaped[Tensor, " n"], seed: int) -> Figure:
        """Mean of one value for each image, with its bootstrap interval."""
        numbers = values.double().numpy()
        interval = interval_of_mean(numbers, resamples=RESAMPLES, seed=seed)
        return self.of(row, float(numbers.mean()), len(numbers), interval)

    def share(self, row: str, share: float, n: int) -> Figure:
        """A share of n images, with Wilson's interval."""
        return self.of(row, share, n, wilson(share, n))


def as_text(value: float | None, unit: Unit) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    if unit == "share":
        # rounded down, so that 100 % means all
        return f"{math.floor(1e4 * value + 1e-6) / 1e2:g} %"
    if unit == "squared error":
        return f"{value:.1e}" if value < 0.001 else f"{value:.4f}"
    text = f"{value:.3f}" if unit == "score" else f"{value:.3g}"
    return text.lstrip("-") if float(text) == 0 else text


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """What figures mean, in plain words."""

    text: str
    grade: Grade = "none"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture, [h, w, 3], and what is seen on it."""

    pixels: UInt8[Tensor, "h w 3"]
    caption: str

    @property
    def image(self) -> Image.Image:
        """For a page."""
        return Image.fromarray(self.pixels.numpy())


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one chapter has found.

    figures: of its table. verdict: the first sentence is the chapter's in the summary. notes: how it was measured, and
    what was left out.
    """

    figures: Sequence[Figure] = ()
    verdict: Sequence[Sentence] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Shown] = field(default_factory=tuple)

    def kept(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """JSON-able values and tensors that `Finding.found` makes the same of."""
        known = {
            "figures": [asdict(figure) for figure in self.figures],
            "verdict": [asdict(sentence) for sentence in self.verdict],
            "notes": list(self.notes),
            "captions": [picture.caption for picture in self.pictures],
        }
        return known, {f"picture {i}": picture.pixels for i, picture in enumerate(self.pictures)}

    @classmethod
    def found(cls, known: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Finding:
        """What `kept` gave."""
        return cls(
            figures=[Figure(**figure) for figure in known["figures"]],
            verdict=[Sentence(**sentence) for sentence in known["verdict"]],
            notes=known["notes"],
            pictures=[
                Shown(pixels=tensors[f"picture {i}"], caption=caption) for i, caption in enumerate(known["captions"])
            ],
        )


def sheet(rows: Mapping[str, UInt8[Tensor, "_ _ _ _"]], caption: str) -> Shown:
    """Rows of pictures with a word beside each; small pictures are enlarged by a whole number."""
    from zsem.data.pixels import displayable, grid

    pictures = [displayable(row) for row in rows.values()]
    scale = max(1, 64 // min(pictures[0].shape[-2:]))
    image = grid(*pictures, captions=list(rows), scale=scale)
    return Shown(pixels=torch.from_numpy(np.array(image)), caption=caption)
