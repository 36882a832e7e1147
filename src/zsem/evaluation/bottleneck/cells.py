"""What the study of h-space finds: a cell for every attribute and method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from zsem.evaluation.bottleneck.methods import METHODS
from zsem.evaluation.bottleneck.properties import Property
from zsem.evaluation.flipping import jsonable, means
from zsem.metrics.editing import EditFigures
from zsem.metrics.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attribute by one method.

    given, taken: shares of edits seen among images that lacked the attribute and that had it; None where there are
    none. amount: that was chosen; tried: distance to what was asked for by amount, on training images.
    seconds: "find" (or train), "choose" the amount, "edit", without what methods share.
    pictures: the first edited images.
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


def read_cell(known: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Cell:
    """What `Cell.summary` says, with its pictures."""
    names = list(EditFigures.__dataclass_fields__)
    return Cell(
        figures=EditFigures(**{name: known[name] for name in names}),
        intervals={name: Interval(**ends) for name, ends in known["intervals"].items()},
        given=known["given"], taken=known["taken"], amount=known["amount"], tried=known["tried"],
        seconds=known["seconds"], pictures=tensors["pictures"],
    )  # fmt: skip
