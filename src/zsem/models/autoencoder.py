"""The diffusion autoencoder: a semantic encoder and a conditional diffusion decoder (DiffAE, 2111.15640)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zsem.diffusion.codecs import CODECS
from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.models.base import Model
from zsem.models.inputs import Images, read_inputs
from zsem.nets.encoder import SemanticEncoder
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
MEASURED_NOISE = 32  # held-out images over which the moments of x_T are taken


class DiffusionAutoencoder(Model):
    """Images to codes (z_sem, x_T) and back.

    Everything that makes pixels goes through `decode`; everything else takes codes and gives codes.
    z_mean, z_std: statistics of z over the training images, [d]; zero and one before training has ended.
    """

    kind = "autoencoder"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        image_size: int = 64
        """side of the square images, pixels"""
        image_channels: int = 3
        """1 for grey, 3 for colour, any number for other data"""
        z_dim: int = 512
        """length of the semantic code"""
        prediction: Literal["v", "eps", "x0"] = "v"
        """what the U-Net predicts"""
        unet: UNet.Config = field(default_factory=UNet.Config)
        """the decoder's network"""
        encoder: SemanticEncoder.Config = field(default_factory=SemanticEncoder.Config)
        """the semantic encoder"""
        schedule: NoiseSchedule.Config = field(default_factory=NoiseSchedule.Config)
        """noise levels that the decoder was trained with"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        size, channels = config.image_size, config.image_channels
        self.unet = UNet(config.unet, image_size=size, image_channels=channels, z_dim=config.z_dim)
        self.encoder = SemanticEncoder(config.encoder, image_size=size, image_channels=channels, z_dim=config.z_dim)
        for name, network in (("unet", self.unet), ("encoder", self.encoder)):
            if size % network.multiple:
                raise ZsemError(
                    f"image size {size} does not fit the {name}: it must be a multiple of {network.multiple}"
                )
        self.schedule = NoiseSchedule(config.schedule)
        self.z_mean: Tensor
        self.z_std: Tensor
        self.register_buffer("z_mean", torch.zeros(config.z_dim))
        self.register_buffer("z_std", torch.ones(config.z_dim))

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The decoder as a denoiser, for solvers, guidance and codecs."""
        return NetworkDenoiser(self.unet, self.schedule, self.config.prediction)

    @property
    def backend(self) -> str:
        """What arithmetic codes are made with: exact decoding asks for the same."""
        return f"torch {torch.__version__} {self.device.type} float32"

    def grid(self, steps: int) -> TimeGrid:
        """The codec's grid: `steps` integer noise levels evenly spaced in log-SNR, then the clean image.

        Raises ZsemError for fewer than one step or more than there are levels.
        """
        grid = TimeGrid.make(self.schedule, steps, spacing="logsnr", u_max=U_MAX, cleanest=CLEANEST)
        return replace(grid, t=torch.cat([grid.t[:-1], grid.t.new_tensor([CLEAN_LABEL])]))

    def encode(
        self,
        images: Images,
        *,
        noise: bool = True,
        codec: str = "exact",
        steps: int = STEPS,
        storage: torch.dtype = torch.float32,
        batch_size: int = 16,
        progress: Callable[[int, int], None] | None = None,
    ) -> Codes:
        """Codes of images: z_sem, and with `noise` the stochastic code too.

        images: an ImageSet, paths (or a folder or archive), PIL images, uint8 arrays [n, h, w, c] or [h, w, c], or
            tensors [n, c, h, w]: uint8, or float in [-1, 1] of the model's size.
        codec: "exact" (O-BELM, reversible), "ddim" (DiffAE, eq. 8), or "offsets" (DDIM with stored corrections).
        steps: noise levels; the exact codec evaluates the network steps + 1 times here and steps times in decode.
        storage: type of the stochastic code: float32, or float16 for half the size and rounding below one grey level.
        progress: called with (images done, images in all).
        """
        if codec not in CODECS:
            raise ZsemError(f"there is no codec {codec!r}; choose one of {', '.join(CODECS)}")
        inputs = read_inputs(images, self.config.image_size, self.config.image_channels)
        number = len(inputs.pixels)
        grid = self.grid(steps)
        zs, noises = [], []
        with evaluation(self):
            for start in range(0, number, batch_size):
                x0 = inputs.part(slice(start, start + batch_size)).to(self.device)
                z = self.encoder(x0)
                zs.append(z.cpu())
                if noise:
                    denoise = bind(self.denoiser, Condition(z=z))
                    noises.append(CODECS[codec].encode(denoise, x0, grid, storage).map(Tensor.cpu))
                if progress is not None:
                    progress(min(start + batch_size, number), number)
        return Codes(
            z=torch.cat(zs), noise=Noise.cat(noises) if noise else None,
            codec=codec, timesteps=tuple(grid.t[:-1].tolist()),
            shape=(self.config.image_channels, self.config.image_size, self.config.image_size),
            model=self.stamp, backend=self.backend, paths=inputs.paths, sha256=inputs.sha256,
        )  # fmt: skip

    def decode(
        self,
        codes: Codes,
        *,
        seed: int = 0,
        batch_size: int = 16,
        steer: Callable[[Condition, slice], BoundDenoiser] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Pixels of codes, float32, nominally in [-1, 1] and not clipped; `zsem.data.pixels.to_uint8` makes images.

        Codes without noise are given fresh noise, a function of (seed, position) alone.
        steer: makes the denoiser for a part of the batch from its condition and the rows it stands for, where the
            plain one should not be used, e.g. `Extrapolate` for edits.
        Raises ZsemError where the codes belong to another model.
        """
        self._check(codes)
        if codes.noise is None:
            codes = replace(codes, codec="exact", noise=self.fresh_noise(len(codes), seed=seed))
        noise = codes.noise
        assert noise is not None
        levels = torch.tensor(codes.timesteps, dtype=torch.float64)
        grid = TimeGrid.from_levels(self.schedule, t=levels, clean=True) if codes.steps else self.grid(STEPS)
        out = []
        with evaluation(self):
            for start in range(0, len(codes), batch_size):
                rows = slice(start, start + batch_size)
                cond = Condition(z=codes.z[rows].to(self.device))
                denoise = bind(self.denoiser, cond) if steer is None else steer(cond, rows)
                part = noise.map(lambda tensor, rows=rows: tensor[rows].to(self.device))
                out.append(CODECS[codes.codec].decode(denoise, part, grid).float().cpu())
                if progress is not None:
                    progress(min(start + batch_size, len(codes)), len(codes))
        return torch.cat(out)

    def reconstruct(self, images: Images, *, codec: str = "exact", steps: int = STEPS) -> Float[Tensor, "n c h w"]:
        """Encode and decode: the same pixels with the exact codec."""
        return self.decode(self.encode(images, codec=codec, steps=steps))

    def vary(self, codes: Codes, number: int = 1, *, seed: int = 0) -> Codes:
        """`number` variations of every image: the same z, fresh x_T (DiffAE, Fig. 3); image by image in the result."""
        rows = torch.arange(len(codes)).repeat_interleave(number)
        return replace(codes[rows], codec="exact", noise=self.fresh_noise(len(rows), seed=seed), sha256=())

    def mix(self, semantics: Codes, rest: Codes) -> Codes:
        """z of one set of codes with the noise of another of the same length."""
        self._check(semantics)
        self._check(rest)
        if len(semantics) != len(rest):
            raise ZsemError(f"mixing takes as many codes for z ({len(semantics)}) as for the noise ({len(rest)})")
        if rest.noise is None:
            raise ZsemError("mixing needs noise in the second codes; encode their images with noise")
        return replace(rest, z=semantics.z, paths=(), sha256=())

    def fresh_noise(self, number: int, *, seed: int = 0) -> Noise:
        """Standard normal x_T; the one at a position depends on (seed, position) alone."""
        c, size = self.config.image_channels, self.config.image_size
        return Noise(x_T=draws.normal([(seed, position) for position in range(number)], (c, size, size)))

    def measure_codes(
        self, images: UInt8[Tensor, "n c h w"], held_out: UInt8[Tensor, "m c h w"], *, batch_size: int = 64
    ) -> None:
        """Store mean and standard deviation of z over `images`, and in the history the moments of held-out x_T.

        x_T of a good inversion is standard normal: a mean or variance off 0 and 1 says that the codec is at its limits.
        """
        z = self.encode(images, noise=False, batch_size=batch_size).z
        self.z_mean.copy_(z.mean(0))
        self.z_std.copy_(z.std(0, correction=0).clamp_min(1e-8))
        noise = self.encode(held_out[:MEASURED_NOISE]).noise
        assert noise is not None
        self.history["x_T"] = {
            "mean": round(float(noise.x_T.mean()), 4),
            "variance": round(float(noise.x_T.var()), 4),
            "images": len(noise.x_T),
        }

    def _check(self, codes: Codes) -> None:
        if codes.model and codes.model != self.stamp:
            raise ZsemError(f"these codes belong to model {codes.model}, this is {self.stamp}: encode the images again")
        if codes.noise is not None and codes.backend not in {"", self.backend}:
            warnings.warn(
                f"these codes were made with {codes.backend}, this is {self.backend}: some pixels may differ",
                stacklevel=3,
            )


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
