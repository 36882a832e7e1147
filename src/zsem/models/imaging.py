"""What models that make images share: a U-Net as a denoiser, codecs over it, noise that depends on its name alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor

from zsem.data.pixels import displayable
from zsem.data.shaping import sides
from zsem.diffusion.codecs import CODECS
from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import last
from zsem.models.base import Model
from zsem.models.inputs import Images, InputConfig, Inputs, read_inputs
from zsem.models.walking import Walking
from zsem.nets.unet import UNet
from zsem.values import draws
from zsem.values.codes import Codes, Noise
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition

# The codec's noise levels end where inversion loses its footing: above sigma / alpha = 160, and below timestep 2, where
# images without any noise are so far from what the network was trained on that the error of the first step grows
U_MAX, CLEANEST = 160.0, 2
CLEAN_LABEL = 1  # the first step is a midpoint rule: of a clean image the network is told half the first timestep
STEPS = 19  # noise levels of the default codec: 20 evaluations to encode, 19 to decode

Progress = Callable[[int, int], None]
Steer = Callable[[Condition, slice], BoundDenoiser]
"""Makes the denoiser for a part of the batch from its condition and the rows it stands for."""


class ImageModel(Model):
    """A diffusion model of images: a U-Net, the noise schedule that it was trained on, and codecs over both."""

    @dataclass(frozen=True, kw_only=True)
    class Config(InputConfig):
        prediction: Literal["v", "eps", "x0"] = "v"
        """what the U-Net predicts"""
        sigma_data: float = 1.0
        """of prediction v: 1 for v itself, less for the image itself where there is more noise than that, which
        networks that see large patches learn sooner (see `zsem.diffusion.denoiser.mixture`)"""
        unet: UNet.Config = field(default_factory=UNet.Config)
        """the network that removes noise"""
        schedule: NoiseSchedule.Config = field(default_factory=NoiseSchedule.Config)
        """noise levels that the model was trained with"""

    def __init__(
        self, config: Config, *, z_dim: int | None = None, out_channels: int | None = None, multiple: int = 1
    ) -> None:
        """multiple: what further networks need the sides of images to be multiples of."""
        super().__init__(config)
        if config.sigma_data <= 0:
            raise ZsemError(f"sigma_data must be above 0, not {config.sigma_data:g}")
        if config.prediction != "v" and config.sigma_data != 1:
            raise ZsemError(
                f"sigma_data {config.sigma_data:g} is for prediction v: set it to 1 for {config.prediction}"
            )
        # what the networks cannot halve is padded
        multiple = math.lcm(multiple, config.unet.multiple)
        height, width = sides(config.image_size)
        if min(height, width) < 1:
            raise ZsemError(f"image size {config.image_size} is none: give 1 pixel or more")
        self.image_shape = config.image_shape
        """Channels, height and width of the images."""
        self.noise_shape = (config.image_channels, *(-(-side // multiple) * multiple for side in (height, width)))
        """The same as the networks have them, padded: the shape of x_T."""
        self.unet = UNet(
            config.unet, image_size=max(self.noise_shape[1:]), image_channels=config.image_channels,
            z_dim=z_dim, out_channels=out_channels,
        )  # fmt: skip
        self.schedule = NoiseSchedule(config.schedule)

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The U-Net as a denoiser, for solvers, guidance and codecs."""
        return NetworkDenoiser(self.unet, self.schedule, self.config.prediction, sigma_data=self.config.sigma_data)

    @property
    def bottleneck_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of h, the bottleneck of the U-Net."""
        height, width = (side // self.unet.multiple for side in self.noise_shape[1:])
        return self.unet.skip_channels[-1], height, width

    def _bottleneck(
        self, x_t: Float[Tensor, "b c h w"], t: int | float | Float[Tensor, " ..."], cond: Condition
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """h at x_t, under a condition."""
        if tuple(x_t.shape[1:]) != self.noise_shape:
            raise ZsemError(f"x_t must be {['n', *self.noise_shape]} here, not {list(x_t.shape)}")
        at = torch.as_tensor(t, dtype=torch.float32, device=self.device).expand(len(x_t))
        with evaluation(self):
            return self.unet.down(x_t.float().to(self.device), at, cond)[0]

    @property
    def backend(self) -> str:
        """What arithmetic codes are made with: exact decoding asks for the same."""
        return f"torch {torch.__version__} {self.device.type} float32"

    def read(self, images: Images) -> Inputs:
        """Images of any kind as this model takes them. ZsemError: they cannot be read, or do not fit."""
        return read_inputs(images, self.image_shape, self.config.intensity, self.config.background)

    def prepare(self, pixels: Shaped[Tensor, "b c h w"]) -> Float32[Tensor, "b c h2 w2"]:
        """Pixels as they are stored, as the networks see them: in [-1, 1], padded, on the model's device."""
        if pixels.dtype == torch.uint8:  # a quarter of the bytes to move
            pixels = pixels.to(self.device)
        return self.pad(self.config.intensity.normalise(pixels).to(self.device))

    def display(self, x: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c2 h w"]:
        """Images in [-1, 1] as pictures to look at: 8 bits, clipped, grey or RGB."""
        return displayable(self.config.intensity.display(x))

    def pad(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Images with their edges repeated, to sizes that all levels of the networks can halve; undone by `crop`."""
        left, top = self._margins
        bottom, right = (b - a for a, b in zip(self.image_shape[1:], self.noise_shape[1:], strict=True))
        if not bottom and not right:
            return x
        return F.pad(x, (left, right - left, top, bottom - top), mode="replicate")

    def crop(self, x: Float[Tensor, "b c h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The images inside what the networks made."""
        left, top = self._margins
        return x[..., top : top + self.image_shape[1], left : left + self.image_shape[2]]

    @property
    def _margins(self) -> tuple[int, int]:
        """Pixels to the left of the image and above it."""
        return (self.noise_shape[2] - self.image_shape[2]) // 2, (self.noise_shape[1] - self.image_shape[1]) // 2

    def grid(
        self,
        steps: int,
        codec: str = "exact",
        *,
        noisiest: float | int | None = None,
        forced: Sequence[float | int] = (),
    ) -> TimeGrid:
        """A codec's grid: `steps` integer noise levels evenly spaced in log-SNR, then the clean image.

        The codec "reference" has the spacing of the official code.
        noisiest: timestep to stop at on the way to noise, so that x_T of the codes is x_t there.
        forced: timesteps that must be levels, e.g. where an edit begins or ends.
        Raises ZsemError for fewer than one step, more than there are levels, or a number that the reference lacks.
        """
        if codec == "reference":
            return TimeGrid.strided(self.schedule, steps)
        u_max = U_MAX
        if noisiest is not None:
            u_max = min(u_max, float(self.schedule.u(torch.tensor(float(noisiest), dtype=torch.float64))))
        grid = TimeGrid.make(
            self.schedule, steps, spacing="logsnr", u_max=u_max, cleanest=CLEANEST, forced=forced
        )  # fmt: skip
        return replace(grid, t=torch.cat([grid.t[:-1], grid.t.new_tensor([CLEAN_LABEL])]))

    def fresh_noise(self, number: int, *, seed: int = 0, first: int = 0) -> Noise:
        """Standard normal x_T of positions from `first` on; each depends on (seed, position) alone."""
        names = [(seed, position) for position in range(first, first + number)]
        return Noise(x_T=draws.normal(names, self.noise_shape))

    def _encode(
        self,
        inputs: Inputs,
        condition: Callable[[Tensor, slice], Condition],
        *,
        noise: bool,
        codec: str,
        steps: int,
        storage: torch.dtype,
        batch_size: int,
        progress: Progress | None,
        steer: Steer | None = None,
        grid: TimeGrid | None = None,
    ) -> Codes:
        """Codes of images, each part [b, c, h, w] of them under condition(part, its rows)."""
        if codec not in CODECS:
            raise ZsemError(f"there is no codec {codec!r}; choose one of {', '.join(CODECS)}")
        number = len(inputs.pixels)
        grid = self.grid(steps, codec) if grid is None else grid
        zs, noises = [], []
        with evaluation(self):
            for start in range(0, number, batch_size):
                rows = slice(start, min(start + batch_size, number))
                x0 = self.pad(inputs.part(rows).to(self.device))
                cond = condition(x0, rows)
                zs.append(torch.empty(len(x0), 0) if cond.z is None else cond.z.cpu())
                if noise:
                    denoise = bind(self.denoiser, cond) if steer is None else steer(cond, rows)
                    noises.append(CODECS[codec].encode(denoise, x0, grid, storage).map(Tensor.cpu))
                if progress is not None:
                    progress(rows.stop, number)
        return Codes(
            z=torch.cat(zs), noise=Noise.cat(noises) if noise else None,
            codec=codec, timesteps=tuple(grid.t[:-1].tolist()), shape=self.image_shape,
            model=self.stamp, backend=self.backend, paths=inputs.paths, sha256=inputs.sha256,
        )  # fmt: skip

    def _decode(
        self,
        codes: Codes,
        denoiser: Callable[[slice], BoundDenoiser],
        *,
        seed: int,
        batch_size: int,
        progress: Progress | None,
        first: int = 0,
        walking: Walking | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Pixels of codes, each part of them with the denoiser for its rows."""
        self._check(codes)
        if walking is not None:
            walking.check_solver()
            if codes.timesteps:
                raise ValueError("noise that a codec has found is decoded by that codec: give codes without noise")
        if codes.noise is None:
            fresh = self.fresh_noise(len(codes), seed=seed, first=first)
            codes = replace(codes, codec="exact", noise=fresh, timesteps=())
        noise = codes.noise
        assert noise is not None
        levels = torch.tensor(codes.timesteps, dtype=torch.float64)
        grid = TimeGrid.from_levels(self.schedule, t=levels, clean=True) if codes.steps else self.grid(STEPS)
        out = []
        with evaluation(self):
            for start in range(0, len(codes), batch_size):
                rows = slice(start, min(start + batch_size, len(codes)))
                part = noise.map(lambda tensor, rows=rows: tensor[rows].to(self.device))
                if walking is None:
                    x0 = CODECS[codes.codec].decode(denoiser(rows), part, grid)
                else:
                    more = self.step_noise(seed, range(first + rows.start, first + rows.stop))
                    x0, _ = last(walking.walk(denoiser(rows), part.x_T, self.schedule, more))
                out.append(self.crop(x0).float().cpu())
                if progress is not None:
                    progress(rows.stop, len(codes))
        return torch.cat(out)

    def step_noise(self, seed: int, rows: range) -> Callable[[int], Tensor]:
        """Standard normal noise of a step for some of the images, a function of (seed, position, step)."""
        return lambda step: draws.normal([(seed, position, step) for position in rows], self.noise_shape)

    def _check(self, codes: Codes) -> None:
        if codes.model and codes.model != self.stamp:
            raise ZsemError(f"these codes belong to model {codes.model}, this is {self.stamp}: encode the images again")
        if codes.noise is not None and codes.backend not in {"", self.backend}:
            warnings.warn(
                f"these codes were made with {codes.backend}, this is {self.backend}: some pixels may differ",
                stacklevel=4,
            )


def check_size(size: int | tuple[int, int], name: str, multiple: int) -> None:
    """Raise ZsemError where a network's levels cannot halve images of this size."""
    if any(side % multiple for side in sides(size)):
        raise ZsemError(f"image size {size} does not fit the {name}: it must be a multiple of {multiple}")


def check_names(names: Sequence[str], number: int) -> None:
    """Raise ZsemError where classes have names, but not one each."""
    if names and (len(names) != number or len(set(names)) != number):
        raise ZsemError(f"class_names must be {number} different names, one for each class, or none: {list(names)}")


@contextmanager
def evaluation(model: Model) -> Iterator[None]:
    """Inference as codecs need it: no gradient, no dropout, full float32; what was set before comes back."""
    was_training, precision = model.training, torch.get_float32_matmul_precision()
    model.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        model.train(was_training)
