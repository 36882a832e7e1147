"""Plain diffusion models of images: unconditional or conditional on classes (DDPM, improved DDPM, ADM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.guidance import Clip
from zsem.diffusion.schedule import Spacing, TimeGrid
from zsem.diffusion.solvers import SOLVERS, last
from zsem.models.imaging import STEPS, ImageModel, Progress, evaluation
from zsem.models.inputs import Images
from zsem.values import draws
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

Classes = int | Sequence[int] | Int[Tensor, " n"] | None


class DiffusionModel(ImageModel):
    """Noise to images, and with a codec images to noise: `sample`, `invert`, `decode`.

    A class-conditional model wants `classes` everywhere: one index for all images, or one each.
    """

    kind = "diffusion"

    @dataclass(frozen=True, kw_only=True)
    class Config(ImageModel.Config):
        learned_range: bool = False
        """the network also predicts the variance of ancestral steps, as in improved DDPM and ADM"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, out_channels=config.image_channels * (2 if config.learned_range else 1))

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The U-Net as a denoiser, for solvers, guidance and codecs."""
        return NetworkDenoiser(self.unet, self.schedule, self.config.prediction, self.config.learned_range)

    def sample(
        self,
        number: int,
        *,
        classes: Classes = None,
        seed: int = 0,
        solver: str = "unipc",
        steps: int = 20,
        spacing: Spacing = "logsnr",
        clip: bool = True,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """New images, float32, nominally in [-1, 1]; each is a function of (seed, position) and the settings alone.

        solver: "unipc", "dpmpp_2m", "heun", "ddim", or "ddpm" (ancestral: hundreds of steps, spacing "uniform").
        clip: clip every prediction of x0 to [-1, 1], as DDPM's sampler does.
        Raises ZsemError for an unknown solver, too many steps, or classes that the model does not have.
        """
        if solver not in SOLVERS:
            raise ZsemError(f"there is no solver {solver!r}; choose one of {', '.join(SOLVERS)}")
        if number < 1 or batch_size < 1:
            raise ZsemError(f"ask for at least one sample, in batches of at least one, not {number} in {batch_size}")
        wanted = self._classes(classes, number)
        grid = TimeGrid.make(self.schedule, steps, spacing=spacing)
        x_T = self.fresh_noise(number, seed=seed).x_T
        out = []
        with evaluation(self):
            for start in range(0, number, batch_size):
                rows = range(start, min(start + batch_size, number))
                denoise = bind(self.denoiser, self._condition(wanted, slice(rows.start, rows.stop)))
                settings = self._ancestral(seed, rows) if solver == "ddpm" else {}
                start_at = x_T[rows.start : rows.stop].to(self.device)
                steps_of = SOLVERS[solver](Clip(denoise) if clip else denoise, start_at, grid, **settings)
                out.append(self.crop(last(steps_of)[0]).float().cpu())
                if progress is not None:
                    progress(rows.stop, number)
        return torch.cat(out)

    def invert(
        self,
        images: Images,
        *,
        classes: Classes = None,
        codec: str = "exact",
        steps: int = STEPS,
        storage: torch.dtype = torch.float32,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Codes:
        """The noise that images come from, as Codes with an empty z; arguments as in DiffusionAutoencoder.encode."""
        inputs = self.read(images)
        wanted = self._classes(classes, len(inputs.pixels))
        return self._encode(
            inputs, lambda _, rows: self._condition(wanted, rows), noise=True, codec=codec, steps=steps,
            storage=storage, batch_size=batch_size, progress=progress,
        )  # fmt: skip

    def decode(
        self,
        codes: Codes,
        *,
        classes: Classes = None,
        seed: int = 0,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Pixels of codes, float32, nominally in [-1, 1] and not clipped; give the classes of `invert` again."""
        wanted = self._classes(classes, len(codes))
        return self._decode(
            codes, lambda rows: bind(self.denoiser, self._condition(wanted, rows)),
            seed=seed, batch_size=batch_size, progress=progress,
        )  # fmt: skip

    def _classes(self, classes: Classes, number: int) -> Int[Tensor, " n"] | None:
        known = self.config.unet.num_classes
        if known is None:
            if classes is not None:
                raise ZsemError("this model is unconditional: leave out the classes")
            return None
        if classes is None:
            raise ZsemError(f"this model is conditional on classes: say which of 0..{known - 1} to make")
        wanted = torch.as_tensor(classes)
        if wanted.ndim == 0:
            wanted = wanted.expand(number)
        whole = not (wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool)
        if not whole or wanted.shape != (number,) or not bool(((wanted >= 0) & (wanted < known)).all()):
            raise ZsemError(f"classes must be one of 0..{known - 1} for each of the {number} images")
        return wanted.long()

    def _condition(self, classes: Tensor | None, rows: slice) -> Condition:
        return Condition(classes=None if classes is None else classes[rows].to(self.device))

    def _ancestral(self, seed: int, rows: range) -> dict[str, object]:
        def noise(step: int) -> Tensor:
            return draws.normal([(seed, position, step) for position in rows], self.noise_shape)

        return {"noise": noise, "variance": "learned" if self.config.learned_range else "small"}
