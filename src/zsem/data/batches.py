"""Training batches as a pure function of (seed, iteration): a resumed or distributed run sees the same images."""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch

FLIP = 101  # the purpose that is appended to an image's name for its flip
EPOCHS = 2**32 - 1  # stands for epochs where names have an iteration; no run reaches it


class Batches:
    """Endless shuffled batches of an image set held in memory.

    Images are taken without replacement within an epoch; an epoch may end in the middle of a batch, and a set
    smaller than a batch is gone through several times in one.
    """

    def __init__(
        self,
        images: ImageSet | Shaped[Tensor, "n c h w"],
        *,
        batch_size: int,
        seed: int = 0,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        images: what to draw from; classes and attributes go into the batches where the set has some.
        batch_size: images per iteration over all ranks.
        flip: mirror every image left to right with probability 1/2.
        rank, world_size: this process takes positions rank, rank + world_size, ... of every batch.

        ZsemError: there are no images. ValueError: the batch cannot be shared out evenly.
        """
        self.pixels = images if isinstance(images, Tensor) else images.pixels
        self.classes = images.classes if isinstance(images, ImageSet) and images.class_names else None
        self.attributes = None
        if isinstance(images, ImageSet) and images.attributes:
            self.attributes = torch.from_numpy(np.stack(list(images.attributes.values()), axis=1))
        self._paths = images.paths if isinstance(images, ImageSet) else None
        if len(self.pixels) == 0:
            raise ZsemError("there are no images to train on: give a set with at least one readable image")
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(f"a batch of {batch_size} cannot be shared by {world_size} ranks (rank {rank})")
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.positions = range(rank, batch_size, world_size)
        # a batch touches one epoch, or two neighbours at a border
        self._order = functools.lru_cache(maxsize=2)(self._permutation)

    def batch(self, iteration: int) -> Batch:
        """The batch of `iteration` (0, 1, ...), stored pixels on the CPU; equal calls give equal batches."""
        index = self._rows(iteration, self.positions)
        known = None
        if self.classes is not None:  # over all ranks, so that a mean over known classes is the same for any number
            known = float((self.classes[self._rows(iteration, range(self.batch_size))] >= 0).double().mean())
        names: list[tuple[int, ...]] = [(self.seed, iteration, position) for position in self.positions]
        images = self.pixels.numpy()[index]  # numpy: waking torch's threads costs more than this copy
        if self.flip:
            mirrored = np.array([draws.generator(*name, FLIP).random() < 0.5 for name in names])
            images[mirrored] = images[mirrored][..., ::-1]
        rows = torch.from_numpy(index)
        return Batch(
            images=torch.from_numpy(images),
            names=names,
            classes=None if self.classes is None else self.classes[rows],
            attributes=None if self.attributes is None else self.attributes[rows],
            whole_known=known,
        )

    def paths(self, iteration: int) -> list[str]:
        """Where the images of an iteration come from, those of all ranks; their positions in a set without paths."""
        rows = self._rows(iteration, range(self.batch_size)).tolist()
        return [f"image {row}" if self._paths is None else self._paths[row] for row in rows]

    def _rows(self, iteration: int, positions: range) -> np.ndarray:
        counts = [iteration * self.batch_size + position for position in positions]
        places = [divmod(count, len(self.pixels)) for count in counts]
        return np.array([self._order(epoch)[place] for epoch, place in places])

    def _permutation(self, epoch: int) -> np.ndarray:
        return draws.generator(self.seed, EPOCHS, epoch, 1).permutation(len(self.pixels))
