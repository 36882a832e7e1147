"""What the baselines share: a latent vector that is standard normal, and a network that makes an image of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor

from zsem.data.pixels import displayable
from zsem.data.shaping import sides
from zsem.models.base import Model
from zsem.models.imaging import Progress, check_size, evaluation
from zsem.models.inputs import Images, InputConfig, Inputs, read_inputs
from zsem.nets.vae import Decoder
from zsem.values import draws
from zsem.values.errors import ZsemError


class LatentVariableModel(Model):
    """A model of images with z ~ N(0, I) behind them: `sample`, `decode`.

    image_shape: channels, height and width of the images.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(InputConfig):
        z_dim: int = 128
        """length of the latent vector"""

    def __init__(self, config: Config, name: str, *multiples: int) -> None:
        """name: of the networks, for errors. multiples: what they need the sides of images to be multiples of."""
        super().__init__(config)
        check_size(config.image_size, name, math.lcm(*multiples))
        height, width = sides(config.image_size)
        if min(height, width) < 1 or config.z_dim < 1:
            raise ZsemError(
                f"images of {height} x {width} pixels of a latent vector of {config.z_dim} are none: give 1 or more"
            )
        self.image_shape = config.image_shape

    @property
    def _of_z(self) -> Decoder:
        """The network from latent vectors to images."""
        raise NotImplementedError

    def read(self, images: Images) -> Inputs:
        """Images of any kind as this model takes them. ZsemError: they cannot be read, or do not fit."""
        return read_inputs(images, self.image_shape, self.config.intensity, self.config.background)

    def prepare(self, pixels: Shaped[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
        """Pixels as they are stored, as the networks see them: in [-1, 1], on the model's device."""
        return self.config.intensity.normalise(pixels).to(self.device)

    def display(self, x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c2 h w"]:
        """Images in [-1, 1] as pictures to look at: 8 bits, clipped, grey or RGB."""
        return displayable(self.config.intensity.display(x))

    def fresh_z(self, number: int, *, seed: int = 0, first: int = 0) -> Float[Tensor, "n d"]:
        """Standard normal latent vectors of positions from `first` on; each depends on (seed, position) alone."""
        return draws.normal([(seed, position) for position in range(first, first + number)], (self.config.z_dim,))

    def decode(
        self, z: Float[Tensor, "n d"], *, batch_size: int = 64, progress: Progress | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Images of latent vectors, float32, nominally in [-1, 1] and not clipped, on the CPU.

        Raises ZsemError for vectors of another length.
        """
        if z.shape[1] != self.config.z_dim:
            raise ZsemError(f"latent vectors have {self.config.z_dim} numbers here, not {z.shape[1]}")
        out = [torch.empty(0, *self.image_shape)]
        with evaluation(self):
            for part in z.split(batch_size):
                out.append(self._of_z(part.to(self.device)).float().cpu())
                if progress is not None:
                    progress(sum(map(len, out)), len(z))
        return torch.cat(out)

    def sample(
        self,
        number: int,
        *,
        seed: int = 0,
        first: int = 0,
        z: Float[Tensor, "n d"] | None = None,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """New images, float32, nominally in [-1, 1] and not clipped; each is a function of (seed, position) alone.

        first: position of the first image, so that many can be made in parts.
        z: make them of these latent vectors instead, `number` of them. Raises ZsemError where they do not fit.
        """
        if number < 1 or batch_size < 1:
            raise ZsemError(f"ask for at least one sample, in batches of at least one, not {number} in {batch_size}")
        if z is not None and len(z) != number:
            raise ZsemError(f"{number} samples cannot be made of {len(z)} latent vectors: give one each")
        z = self.fresh_z(number, seed=seed, first=first) if z is None else z
        return self.decode(z, batch_size=batch_size, progress=progress)
