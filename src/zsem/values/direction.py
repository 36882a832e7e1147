"""Directions in a space of codes, as values and in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.values.errors import ZsemError
from zsem.values.files import read_format, write_whole

FORMAT_VERSION = 1


@runtime_checkable
class Shift(Protocol):
    """What is added to the bottleneck of a U-Net: a function of h and of the timestep (Asyrp's f_t, 2210.10960).

    A `Direction` in h is one; so is a network that has learned it.
    """

    def __call__(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], /) -> Float[Tensor, "b c h w"]: ...


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A step in z or h that means something, whatever method found it.

    space: "z" (normalised semantic code), "h" (U-Net bottleneck) or "x" (the noisy image x_t at one timestep).
    vector: the step for an amount of 1: in z [d]; in h [c, h, w] for all timesteps, or [steps, c, h, w] for `timesteps`
        (h and w are 1 where the whole map is shifted alike); in x [1, c, h, w] for one.
    unit: what an amount of 1 is, e.g. "standard deviation" or "logit of smile".
    name: what the direction changes, e.g. "smile".
    model: stamp of the model that the direction belongs to.
    slope, intercept: of a linear classifier's direction, whose logit at a code is slope * (vector . code) + intercept;
        None where there is no classifier.
    timesteps: of a vector that has steps, one for each, the noisiest first; between them it is interpolated linearly,
        beyond them it is that of the nearest.
    """

    space: str
    vector: Float[Tensor, "*d"]
    unit: str
    name: str
    model: str
    slope: float | None = None
    intercept: float | None = None
    timesteps: tuple[float | int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a vector that is none of its space, or has other steps than there are timesteps."""
        shape = tuple(self.vector.shape)
        if (self.space, len(shape)) not in {("z", 1), ("h", 3), ("h", 4), ("x", 4)}:
            raise ValueError(f"a direction is [d] in z, and [c, h, w] or [steps, c, h, w] in h, not {shape}")
        if len(self.timesteps) != (len(shape) == 4 and shape[0]):
            raise ValueError(f"a direction of shape {shape} does not have {len(self.timesteps)} timesteps")
        if any(after >= before for before, after in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise ValueError("the timesteps of a direction must fall strictly")

    def __call__(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """What is added to h at timesteps t, whatever h is: the direction as a `Shift`."""
        return self.at(t).to(h).expand_as(h)

    def at(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """The vector in h at real-valued timesteps t, on t's device. Raises ValueError for a direction in z."""
        if self.space != "h":
            raise ValueError(f"the direction {self.name!r} is in {self.space}, and only those in h depend on t")
        vector = self.vector.to(t.device)
        if not self.timesteps:
            return vector.expand(len(t), *vector.shape)
        if len(self.timesteps) == 1:
            return vector.expand(len(t), *vector.shape[1:])
        known = torch.tensor(self.timesteps[::-1], dtype=t.dtype, device=t.device)
        above = torch.searchsorted(known, t.contiguous()).clamp(1, len(known) - 1)
        share = ((t - known[above - 1]) / (known[above] - known[above - 1])).clamp(0, 1)
        rising = vector.flip(0)
        return torch.lerp(rising[above - 1], rising[above], share.to(vector)[:, None, None, None])

    def on(self, timesteps: Sequence[float | int]) -> Direction:
        """The same in h at other timesteps, the noisiest first; nothing is lost where they include its own."""
        levels = torch.tensor(timesteps, dtype=torch.float64)
        return replace(self, vector=self.at(levels).to(self.vector.device), timesteps=tuple(timesteps))

    def mean(self) -> Direction:
        """The same for all timesteps: the mean over them (Asyrp's global direction)."""
        return replace(self, vector=self.vector.mean(0), timesteps=()) if self.timesteps else self

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
        mine, others = aligned([self, other])
        return replace(
            mine,
            vector=mine.vector + sign * others.vector,
            unit=self.unit if self.unit == other.unit else f"{self.unit} {symbol} {other.unit}",
            name=f"{self.name} {symbol} {other.name}",
            slope=None,
            intercept=None,
        )

    def without(self, *others: Direction) -> Direction:
        """What is left of the step when nothing of the others is: n - N^T (N N^T)^-1 N n (2303.11073, section 4.3).

        In h over all timesteps together. Raises ValueError as addition does.
        """
        mine, *kept = aligned([self, *others])
        rows = torch.stack([one.vector.double().flatten() for one in kept])
        vector = mine.vector.double().flatten()
        rest = vector - torch.linalg.pinv(rows) @ (rows @ vector)
        return replace(mine, vector=rest.to(mine.vector.dtype).view_as(mine.vector), slope=None, intercept=None)

    def check_same_space(self, other: Direction) -> None:
        """Raise ValueError where the other direction is of another space, model or length."""
        mine, others = ((d.space, d.model, tuple(d.vector.shape[-3:])) for d in (self, other))
        if mine != others:
            raise ValueError(f"directions of different spaces or models do not go together: {mine} and {others}")

    @property
    def gradient(self) -> Float[Tensor, "*d"]:
        """Gradient of the classifier, float64, like the vector. Raises ValueError where there is none."""
        if self.slope is None:
            raise ValueError(f"the direction {self.name!r} comes from no classifier")
        return self.slope * self.vector.double()

    def logit(self, codes: Float[Tensor, " n *d"]) -> Float[Tensor, " n"]:
        """What the classifier says of codes in the direction's space. Raises ValueError where there is none."""
        if self.slope is None or self.intercept is None:
            raise ValueError(f"the direction {self.name!r} comes from no classifier")
        return self.slope * (codes.flatten(1) @ self.vector.flatten()) + self.intercept


def aligned(directions: Sequence[Direction]) -> list[Direction]:
    """The same directions, all at all the timesteps that any of them has; errors as in `check_same_space`."""
    for other in directions[1:]:
        directions[0].check_same_space(other)
    levels = sorted({t for one in directions for t in one.timesteps}, reverse=True)
    return [one if list(one.timesteps) == levels else one.on(levels) for one in directions]


def save_directions(path: str | Path, directions: Sequence[Direction]) -> Path:
    """Write directions of one shape to a small safetensors file, whole or not at all."""
    import safetensors.torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = [
        {
            "space": d.space, "unit": d.unit, "name": d.name, "model": d.model,
            "slope": d.slope, "intercept": d.intercept, **({"timesteps": d.timesteps} if d.timesteps else {}),
        }
        for d in directions
    ]  # fmt: skip
    vectors = torch.stack([d.vector.detach().float().cpu() for d in directions])
    metadata = {"format": "zsem.directions", "version": str(FORMAT_VERSION), "directions": json.dumps(about)}
    write_whole(path, safetensors.torch.save({"vectors": vectors}, metadata))
    return path


def load_directions(path: str | Path) -> list[Direction]:
    """Read what `save_directions` wrote. Raises ZsemError where the file is missing, damaged or foreign."""
    path, again = Path(path), "find the directions again"
    tensors, metadata = read_format(path, "zsem.directions", FORMAT_VERSION, holds="directions", mend=again)
    if (vectors := tensors.get("vectors")) is None:
        raise ZsemError(f"{path} holds no directions of zsem; {again}")
    about = json.loads(metadata["directions"])
    return [
        Direction(vector=vector, **{**one, "timesteps": tuple(one.get("timesteps", ()))})
        for vector, one in zip(vectors, about, strict=True)
    ]
