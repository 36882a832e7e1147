"""The loss on held-out images, always with the same noise: figures of different times, runs and machines compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zsem.data.images import ImageSet
from zsem.diffusion.losses import Weighting, diffusion_loss, weight
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import evaluation
from zsem.values import draws
from zsem.values.prediction import Condition

LEVELS = 8  # timesteps, in the middle of as many equal parts of 0..T-1


@dataclass(frozen=True, kw_only=True)
class ValidationFigures:
    """What a validation has found, over `n` images."""

    n: int
    """Number of images."""
    loss: float
    """Mean over the timesteps, weighted as in training: what the training loss would be on these images."""
    levels: dict[str, float]
    """Mean squared error of v at each timestep, whatever the weighting and whatever the network predicts."""


def validate(
    model: DiffusionAutoencoder,
    images: ImageSet,
    weighting: Weighting,
    *,
    levels: int = LEVELS,
    batch_size: int = 32,
) -> ValidationFigures:
    """The denoising loss of `model` on `images`, each with noise that is a function of its path and the timestep."""
    inputs = model.read(images)
    names = [draws.name_of(path) for path in images.paths]
    T = model.schedule.timesteps
    timesteps = [(2 * level + 1) * T // (2 * levels) for level in range(levels)]
    errors = torch.zeros(levels, dtype=torch.float64)
    with evaluation(model):
        for start in range(0, len(names), batch_size):
            rows = slice(start, min(start + batch_size, len(names)))
            x0 = model.pad(inputs.part(rows).to(model.device))
            cond = Condition(z=model.encoder(x0))
            for level, timestep in enumerate(timesteps):
                eps = draws.normal([(*name, timestep) for name in names[rows]], tuple(x0.shape[1:])).to(x0)
                t = torch.full((len(x0),), timestep, device=x0.device)
                errors[level] += diffusion_loss(model.denoiser, x0, eps, t, cond, "v").sum().cpu()
    errors /= len(names)
    alpha, sigma = model.schedule.level(torch.tensor(timesteps, dtype=torch.float64))
    factors = weight(weighting, "v", (alpha / sigma) ** 2)
    return ValidationFigures(
        n=len(names),
        loss=float((factors * errors).mean()),
        levels={str(timestep): float(error) for timestep, error in zip(timesteps, errors, strict=True)},
    )
