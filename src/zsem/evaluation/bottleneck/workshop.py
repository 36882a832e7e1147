"""What the methods of the study of h-space are made from, and what a method is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.evaluation.keeping import cleaned, digest
from zsem.hspace import embeddings
from zsem.hspace.collect import Collected, collect
from zsem.hspace.editable import Editable
from zsem.hspace.edits import symmetric, with_gain
from zsem.hspace.means import mean_difference
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model
from zsem.models.shift import LearnedShift
from zsem.semantics.attributes import Semantics
from zsem.training.shifts import RECIPES, learn_shift
from zsem.values.codes import Codes
from zsem.values.direction import Direction, Shift
from zsem.values.errors import ZsemError

Trained = TypeVar("Trained", bound=Model)


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Images that are edited.

    codes: of the exact codec. before: the judge's probabilities.
    """

    images: ImageSet
    codes: Codes
    before: Float[Tensor, "n a"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Sequence[int]) -> Faces:
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return Faces(images=self.images.subset(rows), codes=self.codes[index], before=self.before[index])


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to edit one attribute.

    edit: images, nominally in [-1, 1], from faces, 1 (give it) or -1 (take it away), and an amount.
    amounts: to be tried; where there is one alone, the method has no strength. most: no more than this.
    shift: what is added to h for an amount of 1, where something is.
    """

    edit: Callable[[Faces, int, float], Float[Tensor, "n c h w"]]
    amounts: tuple[float, ...] = (1.0,)
    most: float = math.inf
    shift: Shift | None = None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An autoencoder whose z_sem knows the attributes: the embedding that says where an edit should go.

    labels: training images that the attributes were learned from at most.
    """

    model: DiffusionAutoencoder
    semantics: Semantics
    labels: int


@dataclass(kw_only=True)
class Workshop:
    """What methods are made from.

    learning: training images with labels. trained_from: how many of them, the first, f_t and tunings learn from.
    attributes: of the judge, in its order. t_edit: last timestep that is edited, a level of the walk of `steps`.
    shift_iterations, tuning_iterations: of f_t, and of each of two tunings.
    folder: for what is trained, with these settings alone.
    """

    model: Editable
    learning: ImageSet
    trained_from: int
    attributes: tuple[str, ...]
    reference: Reference | None
    folder: Path
    t_edit: float
    steps: int
    shift_iterations: int
    tuning_iterations: int
    batch_size: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.interval = (self.t_edit, float(self.model.schedule.timesteps - 1))
        self.shifts: dict[str, LearnedShift] = {}
        self.spent: dict[tuple[str, str], float] = {}  # seconds of whole trainings, by attribute and what is trained
        self.waited = 0.0  # seconds of trainings since this workshop was opened

    @cached_property
    def collected(self) -> Collected:
        """h of the training images where edits act."""
        self.say(f"h of {len(self.learning)} training images")
        return collect(self.model, self.learning, steps=self.steps, interval=self.interval, batch_size=self.batch_size)[
            0
        ]

    def labels(self, name: str) -> Float[np.ndarray, " n"]:
        """Of the training images, NaN where they are not known."""
        return np.asarray(self.learning.attributes[name], dtype=np.float64)

    def kind(self, name: str, value: int, *, first: int | None = None) -> ImageSet:
        """The training images, or the first of them, that have an attribute (1) or lack it (0)."""
        return self.learning.subset(np.flatnonzero(self.labels(name)[:first] == value).tolist())

    def floats(self, images: ImageSet) -> Float[Tensor, "n c h w"]:
        """In [-1, 1]."""
        return self.model.config.intensity.normalise(images.pixels)

    def shifted(self, shift: Shift, amounts: tuple[float, ...]) -> Method:
        """The symmetric edit along a shift of h."""

        def change(faces: Faces, sign: int, amount: float) -> Tensor:
            return self.moved(faces.codes, [(sign * amount, shift)])

        return Method(edit=change, amounts=amounts, shift=shift)

    def moved(self, codes: Codes, terms: Sequence[tuple[float, Shift]]) -> Float[Tensor, "n c h w"]:
        """Codes decoded with shifts of h, whose amounts are taken for a gain."""
        gain, shift = with_gain(terms)
        return symmetric(self.model, codes, shift, gain=gain, interval=self.interval, batch_size=self.batch_size)

    def trained(self, name: str, what: str, train: Callable[[], Sequence[Trained]]) -> Sequence[Trained]:
        """What `train` gives; `spent` counts what went before too, where a training was gone on with or found."""
        started = time.monotonic()
        made = train()
        here = time.monotonic() - started
        self.waited += here
        self.spent[name, what] = max(here, 60 * sum(one.history.get("minutes", 0) for one in made))
        return made

    def goal(self, name: str) -> embeddings.Goal:
        """Where z_sem should go."""
        reference = self.referred()
        return embeddings.towards_attribute(reference.model, reference.semantics, name, method="constrained")

    def referred(self) -> Reference:
        """The autoencoder. Raises ZsemError where there is none."""
        if self.reference is None:
            raise ZsemError("this method asks the z_sem of an autoencoder: give --autoencoder, or leave it out")
        return self.reference


def learned(shop: Workshop, name: str) -> LearnedShift:
    """f_t: trained, or found where it was trained before."""
    if name not in shop.shifts:
        recipe = replace(RECIPES["corrected"], steps=shop.steps)

        def train() -> list[LearnedShift]:
            labels = shop.labels(name)[: shop.trained_from]
            known = np.flatnonzero(~np.isnan(labels))
            return [
                learn_shift(
                    shop.model, shop.learning.subset(known.tolist()), shop.goal(name),
                    shop.folder / f"{plain(name)}-f_t", recipe=recipe, t_edit=shop.t_edit,
                    signs=[-1 if label else 1 for label in labels[known]], iterations=shop.shift_iterations,
                    say=shop.say,
                )
            ]  # fmt: skip

        (shop.shifts[name],) = shop.trained(name, "f_t", train)
    return shop.shifts[name]


def difference(shop: Workshop, name: str) -> Direction:
    """The mean difference at every timestep."""
    return mean_difference(shop.collected, shop.labels(name), name)


def as_long(direction: Direction, like: Direction, *, turn: bool = False) -> Direction:
    """A direction at all timesteps of another one, and as long as that over all of them.

    turn: turn it round where it is against the other; for directions whose sign is arbitrary.
    """
    there = direction.on(like.timesteps)
    ours, theirs = there.vector.double().flatten(), like.vector.double().flatten()
    sign = -1.0 if turn and float(ours @ theirs) < 0 else 1.0
    return there * (sign * float(theirs.norm() / ours.norm()))


def shift_at(
    shop: Workshop, shift: Shift, of_images: Float[np.ndarray, "n s c h w"], place: int
) -> Float[Tensor, "n c h w"]:
    """What a shift adds to the h of some images at the timestep in one place of those that were collected."""
    device, t = shop.model.device, float(shop.collected.timesteps[place])
    parts = torch.from_numpy(np.asarray(of_images[:, place], dtype=np.float32)).split(shop.batch_size)
    with torch.no_grad():
        return torch.cat([shift(h.to(device), torch.full((len(h),), t, device=device)).cpu() for h in parts])


def mean_shift(shop: Workshop, shift: Shift, of_images: Float[np.ndarray, "n s c h w"], name: str) -> Direction:
    """What a shift adds to the h of some images at every timestep, on average: the paper's dh_t^mean."""
    timesteps = shop.collected.timesteps
    means = [shift_at(shop, shift, of_images, place).mean(dim=0) for place in range(len(timesteps))]
    return Direction(
        space="h", vector=torch.stack(means), timesteps=timesteps, name=name,
        unit=f"mean shift of {name}", model=shop.model.stamp,
    )  # fmt: skip


def plain(name: str) -> str:
    """A name as paths have it; digits tell names apart that differ in other characters alone."""
    return name if cleaned(name) == name else f"{cleaned(name)}-{digest(name)}"
