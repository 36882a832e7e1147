"""What the training loop asks of anything that can be trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch and the name of every random draw made for it.

    images: pixels as they are stored (8 bits, 16 or floats), flips already applied, [b, c, h, w].
    classes: class index of every image, -1 where unknown, or None for data without classes, [b].
    attributes: label of every image for every attribute, NaN where unknown, in the order of the data's attributes, or
        None for data without attributes, [b, a].
    names: (seed, iteration, position) for every image; draws append one integer for their purpose.
    whole_known: share of the images whose class is known in the whole batch that these are a part of, over all
        processes; None where these are the whole.
    """

    images: Shaped[Tensor, "b c h w"]
    names: list[tuple[int, ...]]
    classes: Int[Tensor, " b"] | None = None
    attributes: Float[Tensor, "b a"] | None = None
    whole_known: float | None = None

    @property
    def known(self) -> float:
        """Share of the images of the whole batch whose class is known."""
        if self.whole_known is not None:
            return self.whole_known
        return 0.0 if self.classes is None else float((self.classes >= 0).double().mean())

    def classes_of(self, number: int) -> Int[Tensor, " b"]:
        """Class index of every image, -1 where unknown. ZsemError: there are none, or one beyond a model's `number`."""
        if self.classes is None:
            raise ZsemError("the model is taught classes and the images have none: put those of each into its folder")
        highest = int(self.classes.max())
        if highest >= number:
            raise ZsemError(f"the model has {number} classes and an image is of number {highest}: give it more")
        return self.classes

    def parts(self, number: int) -> list[Batch]:
        """The batch in order in `number` parts of nearly equal size, fewer where some were empty; names stay."""
        number = min(number, len(self.names))
        size, more = divmod(len(self.names), number)
        ends = list(itertools.accumulate(size + (i < more) for i in range(number)))
        return [
            Batch(
                images=self.images[start:end],
                names=self.names[start:end],
                classes=None if self.classes is None else self.classes[start:end],
                attributes=None if self.attributes is None else self.attributes[start:end],
                whole_known=self.known,
            )
            for start, end in zip([0, *ends], ends, strict=False)
        ]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One backward pass: a scalar loss, and the name of the optimiser that steps on it."""

    loss: Float[Tensor, ""]
    optimiser: str


@runtime_checkable
class Objective(Protocol):
    """A thing that can be trained by the one loop.

    networks: what each optimiser trains, by the optimiser's name. A GAN has two, an autoencoder one.
    phases: the passes over one batch, in order; the loop steps the named optimiser after each. It is given the
        networks again as the loop prepared them (mixed precision, several devices), and calls those.
    """

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]: ...


@runtime_checkable
class Adaptive(Protocol):
    """An Objective that learns from its losses what to show the networks; the loop keeps that in checkpoints.

    iterated: called after every iteration with a function that joins a tensor of every process along its first axis.
    state_dict: what it has learned, by name; empty where it learns nothing.
    load_state_dict: go on from such a state.
    """

    def iterated(self, gather: Callable[[Tensor], Tensor]) -> None: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
