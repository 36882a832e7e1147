"""The diffusion autoencoder: a semantic encoder and a conditional diffusion decoder (DiffAE, 2111.15640)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Extrapolate
from zsem.diffusion.schedule import TimeGrid
from zsem.models.imaging import STEPS, ImageModel, Progress, Steer
from zsem.models.inputs import Images
from zsem.models.prior import LogP, Prior
from zsem.models.walking import Walking
from zsem.nets.encoder import SemanticEncoder
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition

MEASURED_NOISE = 32  # held-out images over which the moments of x_T are taken


class DiffusionAutoencoder(ImageModel):
    """Images to codes (z_sem, x_T) and back.

    Everything that makes pixels goes through `decode`; everything else takes codes and gives codes.
    history: beside what all models have, "z_dropout", the share of the training's predictions made without z.
    z_mean, z_std: statistics of z over the training images, [d]; zero and one before training has ended.
    """

    kind = "autoencoder"

    @dataclass(frozen=True, kw_only=True)
    class Config(ImageModel.Config):
        z_dim: int = 512
        """length of the semantic code"""
        encoder: SemanticEncoder.Config = field(default_factory=SemanticEncoder.Config)
        """the semantic encoder"""

    config: Config

    def __init__(self, config: Config) -> None:
        """Raises ZsemError for a z of no numbers, a U-Net that is told classes, and images of no pixels."""
        if config.z_dim < 1:
            raise ZsemError(f"z_dim must be at least 1, not {config.z_dim}")
        if config.unet.num_classes is not None:
            raise ZsemError("unet.num_classes is for diffusion models: an autoencoder is told z and no class")
        super().__init__(config, z_dim=config.z_dim, multiple=config.encoder.multiple)
        self.encoder = SemanticEncoder(
            config.encoder,
            image_size=max(self.noise_shape[1:]),
            image_channels=config.image_channels,
            z_dim=config.z_dim,
        )
        self.z_mean: Tensor
        self.z_std: Tensor
        self.register_buffer("z_mean", torch.zeros(config.z_dim))
        self.register_buffer("z_std", torch.ones(config.z_dim))

    def encode(
        self,
        images: Images,
        *,
        noise: bool = True,
        codec: str = "exact",
        steps: int = STEPS,
        storage: torch.dtype = torch.float32,
        grid: TimeGrid | None = None,
        batch_size: int = 16,
        steer: Steer | None = None,
        progress: Progress | None = None,
    ) -> Codes:
        """Codes of images: z_sem, and with `noise` the stochastic code too.

        images: an ImageSet, paths (or a folder or archive), PIL images, arrays [n, h, w, c] or [h, w, c] of the depth
            that the model was trained on (uint8), or tensors [n, c, h, w] of the model's size: of that depth where it
            is one of whole numbers, or float in [-1, 1].
        codec: "exact" (O-BELM, reversible), "ddim" (DiffAE, eq. 8), "offsets" (DDIM with stored corrections), or
            "reference" (DDIM as the official code walks it, for the same numbers).
        steps: noise levels; the exact codec evaluates the network steps + 1 times here and steps times in decode.
        grid: noise levels in place of `steps`, e.g. `model.grid(19, noisiest=600)`: codes with x_t at 600 for x_T.
        storage: type of the stochastic code: float32, or float16 for half the size and rounding below one grey level.
        steer: makes the denoiser that the noise is found with, as in `decode`.
        progress: called with (images done, images in all).
        """
        inputs = self.read(images)
        return self._encode(
            inputs, lambda x0, _: Condition(z=self.encoder(x0)), noise=noise, codec=codec, steps=steps,
            storage=storage, batch_size=batch_size, steer=steer, progress=progress, grid=grid,
        )  # fmt: skip

    def decode(
        self,
        codes: Codes,
        *,
        seed: int = 0,
        guidance_scale: float | int = 1.0,
        batch_size: int = 16,
        steer: Steer | None = None,
        walking: Walking | None = None,
        first: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Pixels of codes, float32, nominally in [-1, 1] and not clipped.

        `zsem.data.pixels.to_uint8` makes images of them, `config.intensity.restore` such as the model was trained on.
        Codes without noise are given fresh noise, a function of (seed, position) alone.
        guidance_scale: how far to extrapolate from no z to the z of the codes (2207.12598): 1 = none, and then nothing
            else is evaluated; 0 = images of no z. Other than 1 it takes a model trained with z_dropout, and does not
            give back the images that codes with noise come from.
        steer: makes the denoiser for a part of the batch from its condition and the rows it stands for, where the
            plain one should not be used, e.g. `Extrapolate` for edits in z or `hspace.engine.Edited` for those in h.
        walking: walk from x_T with this solver and these noise levels in place of the codec's, as samples are made.
        first: position of the first of the codes that are given fresh noise, so that many can be decoded in parts.
        Raises ZsemError where the codes belong to another model, or the model needs z and is to do without;
            ValueError for both a scale and `steer`, or `walking` from noise that a codec has found.
        """
        if guidance_scale != 1 and not self.history.get("z_dropout"):
            raise ZsemError(
                "this model never saw an image without its z (z_dropout is 0), so there is nothing to extrapolate "
                "from: leave guidance_scale at 1, or train with --objective.z-dropout 0.1"
            )
        if guidance_scale != 1 and steer is not None:
            raise ValueError("guidance_scale is for the plain denoiser: let `steer` extrapolate")

        def denoiser(rows: slice) -> BoundDenoiser:
            z = codes.z[rows].to(self.device)
            cond = Condition(z=z)
            if steer is not None:
                return steer(cond, rows)
            if guidance_scale == 1:
                return bind(self.denoiser, cond)
            # zeros are no z (as in training), and let both share one evaluation
            return Extrapolate(self.denoiser, Condition(z=torch.zeros_like(z)), cond, guidance_scale)

        return self._decode(
            codes, denoiser, seed=seed, batch_size=batch_size, progress=progress, first=first, walking=walking
        )

    def sample(
        self,
        number: int,
        *,
        prior: Prior,
        where: LogP | None = None,
        truncation: float | int = 1.0,
        seed: int = 0,
        first: int = 0,
        solver: str = "unipc",
        steps: int = 20,
        cleanest: int = 0,
        guidance_scale: float | int = 1.0,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """New images, float32: z_sem from a prior, fresh x_T; each a function of (seed, position) and the settings.

        prior, where, truncation: what z are drawn from, see `Prior.sample`. For its other settings, and those of
            `Walking`, draw codes and decode them: model.decode(model.codes(prior.sample(n, ..)), walking=..).
        first: position of the first image, so that many can be made in parts.
        solver, steps, cleanest: of the decoder, see `Walking`. guidance_scale: see `decode`.
        Raises ZsemError for the prior of another model, and as `Prior.sample` and `decode` do.
        """
        self.check_prior(prior)
        codes = self.codes(prior.sample(number, seed=seed, first=first, where=where, truncation=truncation))
        return self.decode(
            codes, seed=seed, first=first, guidance_scale=guidance_scale,
            walking=Walking(solver=solver, steps=steps, cleanest=cleanest), batch_size=batch_size, progress=progress,
        )  # fmt: skip

    def codes(self, z: Float[Tensor, "n d"]) -> Codes:
        """Semantic codes from elsewhere, e.g. a prior, as codes of this model without noise.

        Raises ZsemError where they are of another length than this model's.
        """
        if z.shape[1] != self.config.z_dim:
            raise ZsemError(f"codes of this model have {self.config.z_dim} numbers, and these {z.shape[1]}")
        return Codes(z=z.float().cpu(), shape=self.image_shape, model=self.stamp)

    def check_prior(self, prior: Prior) -> None:
        """Raise ZsemError where a prior says that it is of another model's codes."""
        own = prior.history.get("model", self.stamp)
        if own != self.stamp:
            raise ZsemError(f"the prior belongs to model {own}, this is {self.stamp}: fit it again with `zsem prior`")

    def reconstruct(self, images: Images, *, codec: str = "exact", steps: int = STEPS) -> Float[Tensor, "n c h w"]:
        """Encode and decode: the same pixels with the exact codec."""
        return self.decode(self.encode(images, codec=codec, steps=steps))

    def bottleneck(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: int | float | Float[Tensor, " ..."],
        z: Float[Tensor, "b d"] | None = None,
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """h, where Asyrp edits: what the U-Net knows of x_t between its two halves (2210.10960), `bottleneck_shape`.

        x_t: noisy images, `noise_shape` each (padded, see `prepare`). t: timesteps (0..T-1), one for all or one each.
        z: semantic codes as the encoder gives them (not normalised); None = no z, as in training with z_dropout.
        Without a gradient; `unet.down` has one. Raises ZsemError for another shape.
        """
        return self._bottleneck(x_t, t, Condition(z=None if z is None else z.to(self.device)))

    def vary(self, codes: Codes, number: int = 1, *, seed: int = 0) -> Codes:
        """`number` variations of every image: the same z, fresh x_T (DiffAE, Fig. 3); image by image in the result."""
        rows = torch.arange(len(codes)).repeat_interleave(number)
        fresh = self.fresh_noise(len(rows), seed=seed)
        return replace(codes[rows], codec="exact", timesteps=(), noise=fresh, sha256=())

    def mix(self, semantics: Codes, rest: Codes) -> Codes:
        """z of one set of codes with the noise of another of the same length."""
        self._check(semantics)
        self._check(rest)
        if len(semantics) != len(rest):
            raise ZsemError(f"mixing takes as many codes for z ({len(semantics)}) as for the noise ({len(rest)})")
        if rest.noise is None:
            raise ZsemError("mixing needs noise in the second codes; encode their images with noise")
        return replace(rest, z=semantics.z, paths=(), sha256=())

    def measure_codes(
        self, images: ImageSet | UInt8[Tensor, "n c h w"], held_out: ImageSet | UInt8[Tensor, "m c h w"],
        *, batch_size: int = 64,
    ) -> None:  # fmt: skip
        """Store mean and standard deviation of z over `images`, and in the history the moments of held-out x_T.

        x_T of a good inversion is standard normal: a mean or variance off 0 and 1 says that the codec is at its limits.
        """
        z = self.encode(images, noise=False, batch_size=batch_size).z
        self.z_mean.copy_(z.mean(0))
        self.z_std.copy_(z.std(0, correction=0).clamp_min(1e-8))
        some = range(min(MEASURED_NOISE, len(held_out)))
        noise = self.encode(held_out.subset(some) if isinstance(held_out, ImageSet) else held_out[: len(some)]).noise
        assert noise is not None
        self.history["x_T"] = {
            "mean": round(float(noise.x_T.mean()), 4),
            "variance": round(float(noise.x_T.var()), 4),
            "images": len(noise.x_T),
        }
