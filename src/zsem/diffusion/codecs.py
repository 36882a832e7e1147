"""Codecs: image to noise and back along the probability-flow ODE, exactly or nearly so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.guidance import Clip
from zsem.diffusion.schedule import TimeGrid
from zsem.diffusion.solvers import Walk, ddim, last
from zsem.values.codes import Noise
from zsem.values.prediction import BoundDenoiser


class Codec(Protocol):
    """Turns images into noise and noise into images, with one denoiser and one grid (noisy first, clean last).

    Decoding is the inverse of encoding only with the same weights, condition, grid and backend, and a deterministic
    network (no dropout). Nothing is clipped inside but by "reference": clipping cannot be undone.
    """

    def encode(
        self,
        denoise: BoundDenoiser,
        x0: Float[Tensor, "b c h w"],
        grid: TimeGrid,
        storage: torch.dtype = torch.float32,
    ) -> Noise:
        """The noise of images x0 in [-1, 1], as tensors of type `storage`."""
        ...

    def decode(self, denoise: BoundDenoiser, noise: Noise, grid: TimeGrid) -> Float[Tensor, "b c h w"]:
        """The images, in float64 where the device has it, not clipped."""
        ...

    def nfe_encode(self, grid: TimeGrid) -> int:
        """Evaluations of the denoiser that encoding takes."""
        ...

    def nfe_decode(self, grid: TimeGrid) -> int:
        """Evaluations of the denoiser that decoding takes."""
        ...


class Exact:
    """O-BELM (2410.07273): a second-order two-state scheme whose every step is undone by algebra.

    The second state is kept as the carry, what it has beyond one DDIM step from x_T; so fresh noise has carry 0. On
    grids even in log-SNR the scheme's parasitic mode dies out while decoding. The round trip is exact but for rounding.
    """

    def encode(
        self,
        denoise: BoundDenoiser,
        x0: Float[Tensor, "b c h w"],
        grid: TimeGrid,
        storage: torch.dtype = torch.float32,
    ) -> Noise:
        """x_T and carry, steps + 1 evaluations. The carry starts from x_T as stored: its rounding is no loss."""
        walk = Walk(denoise, grid, x0)
        cleaner = xb = walk.start(x0, node=grid.steps)
        for state in trajectory(walk, x0, grid):
            cleaner, xb = xb, state
        x_T = (walk.alpha[0] * xb).to(storage)
        carry = walk.alpha[1] * (cleaner - _euler(walk, walk.start(x_T), 0))
        return Noise(x_T=x_T, carry=carry.to(storage))

    def decode(self, denoise: BoundDenoiser, noise: Noise, grid: TimeGrid) -> Float[Tensor, "b c h w"]:
        """As many evaluations as steps."""
        walk = Walk(denoise, grid, noise.x_T)
        noisier = walk.start(noise.x_T)
        xb = _euler(walk, noisier, 0)
        if noise.carry is not None:
            xb = xb + walk.start(noise.carry, node=1)
        for i in range(1, grid.steps):
            before, ahead = walk.u[i - 1] - walk.u[i], walk.u[i] - walk.u[i + 1]
            r = ahead / before
            eps = walk.predict(xb, i).eps
            noisier, xb = xb, r**2 * noisier + (1 - r**2) * xb - ahead * (1 + r) * eps
        return walk.alpha[-1] * xb

    def nfe_encode(self, grid: TimeGrid) -> int:
        return grid.steps + 1

    def nfe_decode(self, grid: TimeGrid) -> int:
        return grid.steps


class Ddim:
    """DDIM there and back (DDIM, section 5.4): one tensor, not exact; for comparison with other work."""

    def encode(
        self,
        denoise: BoundDenoiser,
        x0: Float[Tensor, "b c h w"],
        grid: TimeGrid,
        storage: torch.dtype = torch.float32,
    ) -> Noise:
        """x_T alone, as many evaluations as steps."""
        _ends_clean(grid)
        x_T, _ = last(ddim(denoise, x0, grid.reversed()))
        return Noise(x_T=x_T.to(storage))

    def decode(self, denoise: BoundDenoiser, noise: Noise, grid: TimeGrid) -> Float[Tensor, "b c h w"]:
        """As many evaluations as steps."""
        x0, _ = last(ddim(denoise, noise.x_T, grid))
        return x0

    def nfe_encode(self, grid: TimeGrid) -> int:
        return grid.steps

    def nfe_decode(self, grid: TimeGrid) -> int:
        return grid.steps


class Offsets:
    """DDIM decoding with a stored correction per step (compare 2310.01506), along the trajectory that O-BELM encodes.

    The corrections are found by decoding what has been stored so far, so the error is the rounding of the last of them,
    however chaotic the network. For models that are over-fitted and for large edits; as large as `steps` images.
    """

    def encode(
        self,
        denoise: BoundDenoiser,
        x0: Float[Tensor, "b c h w"],
        grid: TimeGrid,
        storage: torch.dtype = torch.float32,
    ) -> Noise:
        """x_T and offsets, twice as many evaluations as steps."""
        walk = Walk(denoise, grid, x0)
        states = [walk.start(x0, node=grid.steps), *trajectory(walk, x0, grid)][::-1]
        x_T = (walk.alpha[0] * states[0]).to(storage)
        xb = walk.start(x_T)
        offsets = []
        for i in range(grid.steps):
            step = _euler(walk, xb, i)
            offset = (walk.alpha[i + 1] * (states[i + 1] - step)).to(storage)
            xb = step + walk.start(offset, node=i + 1)
            offsets.append(offset)
        return Noise(x_T=x_T, offsets=torch.stack(offsets, dim=1))

    def decode(self, denoise: BoundDenoiser, noise: Noise, grid: TimeGrid) -> Float[Tensor, "b c h w"]:
        """As many evaluations as steps; without offsets it is plain DDIM."""
        walk = Walk(denoise, grid, noise.x_T)
        if noise.offsets is not None and noise.offsets.shape[1] != grid.steps:
            raise ValueError(f"{noise.offsets.shape[1]} offsets cannot be decoded on a grid of {grid.steps} steps")
        xb = walk.start(noise.x_T)
        for i in range(grid.steps):
            xb = _euler(walk, xb, i)
            if noise.offsets is not None:
                xb = xb + walk.start(noise.offsets[:, i], node=i + 1)
        return walk.alpha[-1] * xb

    def nfe_encode(self, grid: TimeGrid) -> int:
        return 2 * grid.steps

    def nfe_decode(self, grid: TimeGrid) -> int:
        return grid.steps


class Reference(Ddim):
    """DDIM as the official DiffAE code walks it, for the same numbers from the same weights; not exact.

    On `TimeGrid.strided`: x0 is clipped at every step; to encode, the clean image is taken for the state at the first
    timestep, and the last step leaves eps alone; to decode, that is taken for the state at the last timestep.
    """

    def encode(
        self,
        denoise: BoundDenoiser,
        x0: Float[Tensor, "b c h w"],
        grid: TimeGrid,
        storage: torch.dtype = torch.float32,
    ) -> Noise:
        """x_T alone, as many evaluations as steps."""
        _ends_clean(grid)
        walk = Walk(Clip(denoise), grid, x0)
        x = x0.to(walk.dtype)
        for i in range(grid.steps - 1, -1, -1):
            prediction = walk.predict(x / walk.alpha[i], i)
            alpha, sigma = (walk.alpha[i - 1], walk.sigma[i - 1]) if i > 0 else (0.0, 1.0)
            x = alpha * prediction.x0 + sigma * prediction.eps
        return Noise(x_T=x.to(storage))

    def decode(self, denoise: BoundDenoiser, noise: Noise, grid: TimeGrid) -> Float[Tensor, "b c h w"]:
        """As many evaluations as steps."""
        return super().decode(Clip(denoise), noise, grid)


CODECS: dict[str, Codec] = {"exact": Exact(), "ddim": Ddim(), "offsets": Offsets(), "reference": Reference()}


def trajectory(walk: Walk, x0: Float[Tensor, "b c h w"], grid: TimeGrid) -> Iterator[Float[Tensor, "b c h w"]]:
    """Images x0 on their way to noise by O-BELM: xb = x_t / alpha on the nodes steps - 1 .. 0, one evaluation each."""
    _ends_clean(grid)
    cleaner = walk.start(x0, node=grid.steps)
    xb = _euler(walk, cleaner, grid.steps, towards=-1)
    yield xb
    for i in range(grid.steps - 1, 0, -1):
        before, ahead = walk.u[i] - walk.u[i + 1], walk.u[i - 1] - walk.u[i]
        r = ahead / before
        eps = walk.predict(xb, i).eps
        cleaner, xb = xb, r**2 * cleaner + (1 - r**2) * xb + ahead * (1 + r) * eps
        yield xb


def _euler(walk: Walk, xb: Tensor, node: int, towards: int = 1) -> Tensor:
    """One DDIM step from a node to the next, or to the one before it (`towards` -1)."""
    return xb + (walk.u[node + towards] - walk.u[node]) * walk.predict(xb, node).eps


def _ends_clean(grid: TimeGrid) -> None:
    if grid.u[-1] != 0:
        raise ValueError("an image is encoded on a grid whose last node is clean")
