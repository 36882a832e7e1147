"""Directions in a space of codes, as values and in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.values.errors import ZsemError
from zsem.values.files import read_tensors, write_whole

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A step in z or h that means something, whatever method found it.

    space: "z" (normalised semantic code) or "h" (U-Net bottleneck).
    vector: the step for an amount of 1, [d].
    unit: what an amount of 1 is, e.g. "standard deviation" or "logit of smile".
    name: what the direction changes, e.g. "smile".
    model: stamp of the model that the direction belongs to.
    slope, intercept: of a linear classifier's direction, whose logit at a code is slope * (vector . code) + intercept;
        None where there is no classifier.
    """

    space: str
    vector: Float[Tensor, " d"]
    unit: str
    name: str
    model: str
    slope: float | None = None
    intercept: float | None = None

    def __mul__(self, amount: float | int) -> Direction:
        slope = None if self.slope is None or amount == 0 else self.slope / amount
        return replace(self, vector=self.vector * amount, slope=slope)

    __rmul__ = __mul__

    def __neg__(self) -> Direction:
        return self * -1

    def __add__(self, other: Direction) -> Direction:
        """Both steps at once. Raises ValueError where they are of different spaces, models or lengths."""
        return self._joined(other, 1, "+")

    def __sub__(self, other: Direction) -> Direction:
        """This step and the other one backwards. Raises ValueError as addition does."""
        return self._joined(other, -1, "-")

    def _joined(self, other: Direction, sign: int, symbol: str) -> Direction:
        self.check_same_space(other)
        return replace(
            self,
            vector=self.vector + sign * other.vector,
            unit=self.unit if self.unit == other.unit else f"{self.unit} {symbol} {other.unit}",
            name=f"{self.name} {symbol} {other.name}",
            slope=None,
            intercept=None,
        )

    def check_same_space(self, other: Direction) -> None:
        """Raise ValueError where the other direction is of another space, model or length."""
        mine, others = ((d.space, d.model, len(d.vector)) for d in (self, other))
        if mine != others:
            raise ValueError(f"directions of different spaces or models do not go together: {mine} and {others}")

    @property
    def gradient(self) -> Float[Tensor, " d"]:
        """Gradient of the classifier, float64, [d]. Raises ValueError where there is none."""
        if self.slope is None:
            raise ValueError(f"the direction {self.name!r} comes from no classifier")
        return self.slope * self.vector.double()

    def logit(self, codes: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """What the classifier says of codes in the direction's space. Raises ValueError where there is none."""
        if self.slope is None or self.intercept is None:
            raise ValueError(f"the direction {self.name!r} comes from no classifier")
        return self.slope * (codes @ self.vector) + self.intercept


def save_directions(path: str | Path, directions: Sequence[Direction]) -> Path:
    """Write directions of one length to a small safetensors file, whole or not at all."""
    import safetensors.torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = [
        {
            "space": d.space, "unit": d.unit, "name": d.name, "model": d.model,
            "slope": d.slope, "intercept": d.intercept,
        }
        for d in directions
    ]  # fmt: skip
    vectors = torch.stack([d.vector.detach().float().cpu() for d in directions])
    metadata = {"format": "zsem.directions", "version": str(FORMAT_VERSION), "directions": json.dumps(about)}
    write_whole(path, safetensors.torch.save({"vectors": vectors}, metadata))
    return path


def load_directions(path: str | Path) -> list[Direction]:
    """Read what `save_directions` wrote. Raises ZsemError where the file is missing, damaged or foreign."""
    import safetensors

    path = Path(path)
    vectors = read_tensors(path, "find the directions again").get("vectors")
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != "zsem.directions" or vectors is None:
        raise ZsemError(f"{path} holds no directions of zsem")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise ZsemError(f"{path} has version {metadata.get('version')}; this zsem reads version {FORMAT_VERSION}")
    about = json.loads(metadata["directions"])
    return [Direction(vector=vector, **one) for vector, one in zip(vectors, about, strict=True)]
