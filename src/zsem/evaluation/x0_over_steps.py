"""What a model expects of the clean image at every step of its way through noise (DiffAE, Fig. 6).

Real images are taken to noise, and at every noise level on the way the denoiser predicts x0. One that is told z knows
the image where x_t shows nothing of it yet; an unconditional one only knows what images are like on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.codecs import trajectory
from zsem.diffusion.denoiser import bind
from zsem.diffusion.schedule import TimeGrid
from zsem.diffusion.solvers import Walk, ddim
from zsem.metrics.intervals import Interval, interval_of_mean
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import STEPS, ImageModel, Progress, evaluation
from zsem.models.inputs import Images
from zsem.semantics.probes import RESAMPLES
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition

Noising = Literal["exact", "ddim", "fresh"]
"""How an image becomes x_t: by the exact codec or by DDIM, both with the denoiser itself, or with fresh noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class X0Curve:
    """Errors of predicted x0 at every step, from noisy to clean.

    timesteps: that the network was told, [s].
    log_snr: log(alpha^2 / sigma^2) there, [s].
    errors: mean squared error of every image at every step, on the [0, 1] scale and not clipped, [n, s].
    originals: the first images, in [-1, 1].
    strip: what was predicted of them at every step.
    """

    timesteps: tuple[float, ...]
    log_snr: tuple[float, ...]
    errors: Float[np.ndarray, "n s"]
    originals: Float[Tensor, "k c h w"]
    strip: Float[Tensor, "k s c h w"]

    @property
    def mse(self) -> tuple[float, ...]:
        """The mean over images at every step."""
        return tuple(self.errors.mean(axis=0).tolist())

    def intervals(self, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Interval, ...]:
        """95 % bootstrap intervals of `mse` over images."""
        return _intervals(self.errors, resamples, seed)

    def minus(
        self, other: X0Curve, *, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[tuple[float, ...], tuple[Interval, ...]]:
        """How much larger the errors are than the other's of the same images, and 95 % intervals, at every step.

        Raises ValueError for curves of different timesteps or numbers of images.
        """
        if self.timesteps != other.timesteps or self.errors.shape != other.errors.shape:
            raise ValueError("curves are compared image by image at the same timesteps")
        difference = self.errors - other.errors
        return tuple(difference.mean(axis=0).tolist()), _intervals(difference, resamples, seed)

    def summary(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """JSON-able: timestep, log_snr, mse, low and high of every step, and the number of images."""
        steps = zip(self.timesteps, self.log_snr, self.mse, self.intervals(resamples=resamples, seed=seed), strict=True)
        return {
            "n": len(self.errors),
            "steps": [
                {"timestep": t, "log_snr": log_snr, "mse": mse, "low": ends.low, "high": ends.high}
                for t, log_snr, mse, ends in steps
            ],
        }


def _intervals(values: np.ndarray, resamples: int, seed: int) -> tuple[Interval, ...]:
    return tuple(interval_of_mean(column, resamples=resamples, seed=seed) for column in values.T)


def x0_over_steps(
    model: ImageModel,
    images: Images,
    *,
    noising: Noising = "exact",
    steps: int = STEPS,
    seed: int = 0,
    shown: int = 8,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> X0Curve:
    """The curve of a model on real images: an autoencoder is told their z, a diffusion model nothing.

    images: as `DiffusionAutoencoder.encode` takes them.
    noising: "exact" and "ddim" follow the model's own trajectory of each image; "fresh" adds noise that depends on
        (seed, position) alone, so that all models see the same x_t.
    steps: noise levels, spaced as the codec's. shown: images whose predictions are kept to be drawn.
    Raises ZsemError for a model that is told classes, and for images that do not fit.
    """
    if model.config.unet.num_classes is not None or not isinstance(model, (DiffusionAutoencoder, DiffusionModel)):
        raise ZsemError("x0 over steps is that of an autoencoder or of an unconditional diffusion model: give one")
    inputs, grid = model.read(images), model.grid(steps)
    number = len(inputs.pixels)
    errors, originals, strip = [], [], []
    with evaluation(model):
        for start in range(0, number, batch_size):
            rows = slice(start, min(start + batch_size, number))
            x0 = model.pad(inputs.part(rows).to(model.device))
            cond = Condition(z=model.encoder(x0)) if isinstance(model, DiffusionAutoencoder) else Condition()
            eps = model.fresh_noise(len(x0), seed=seed, first=start).x_T.to(model.device)
            clean, kept = model.crop(x0), max(0, min(shown - start, len(x0)))
            own, pictures = [], []
            for expected in predictions(bind(model.denoiser, cond), x0, grid, noising=noising, eps=eps):
                predicted = model.crop(expected)
                own.append(((predicted - clean) / 2).square().mean(dim=(1, 2, 3)).cpu())
                pictures.append(predicted[:kept].float().cpu())
            errors.append(torch.stack(own, dim=1).double().numpy())
            originals.append(clean[:kept].cpu())
            strip.append(torch.stack(pictures, dim=1))
            if progress is not None:
                progress(rows.stop, number)
    return X0Curve(
        timesteps=tuple(grid.t[:-1].tolist()),
        log_snr=tuple((-2 * grid.u[:-1].log()).tolist()),
        errors=np.concatenate(errors),
        originals=torch.cat(originals),
        strip=torch.cat(strip),
    )


def predictions(
    denoise: BoundDenoiser,
    x0: Float[Tensor, "b c h w"],
    grid: TimeGrid,
    *,
    noising: Noising = "exact",
    eps: Float[Tensor, "b c h w"] | None = None,
) -> Iterator[Float[Tensor, "b c h w"]]:
    """Predicted x0 at every noise level of a grid that ends clean, the noisiest first.

    x0: images in [-1, 1]. eps: the noise of "fresh", which needs it.
    Raises ValueError where it is missing.
    """
    walk = Walk(denoise, grid, x0)
    if noising == "fresh":
        if eps is None:
            raise ValueError("fresh noise must be given")
        states = [walk.start(x0, node=grid.steps) + walk.u[node] * eps.to(walk.dtype) for node in range(grid.steps)]
    elif noising == "exact":
        states = list(trajectory(walk, x0, grid))[::-1]
    else:
        walked = [step.x for step in ddim(denoise, x0, grid.reversed())][::-1]
        states = [walk.start(x, node=node) for node, x in enumerate(walked)]
    for node, xb in enumerate(states):
        yield walk.predict(xb, node).x0
