"""Whether a diffusion autoencoder uses its semantic code: the error of x0 at high noise, with the right z and others.

Where x_t is nearly all noise, the image can only come from z. A decoder that ignores z does as well with the z of
another image; users of the reference implementation report such runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.diffusion.denoiser import bind
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import evaluation
from zsem.values import draws
from zsem.values.prediction import Condition

LOG_SNRS = (-3.0, -5.0, -7.0)
"""Noise levels that z is judged at; at -2 a 64 px image begins to show its outlines."""

USED = 1.2
"""How many times the error with the right z that with another's must be; a decoder without z has exactly 1."""


@dataclass(frozen=True, kw_only=True)
class HealthFigures:
    """Mean squared errors of x0 on the [0, 1] scale, one for each timestep, over `n` images."""

    n: int
    """Number of images."""
    timesteps: tuple[int, ...]
    """Where the errors were taken, nearest to `LOG_SNRS`."""
    right: tuple[float, ...]
    """With the image's own z."""
    other: tuple[float, ...]
    """With the z of another image."""
    without: tuple[float, ...]
    """With the mean z, or with none where the model was trained to do without."""
    ratio: float
    """Sum of `other` over sum of `right`: how much the right z helps."""
    used: bool
    """Whether the ratio is at least `USED`."""


def health_of_z(
    model: DiffusionAutoencoder, images: ImageSet, *, unconditional: bool = False, batch_size: int = 32
) -> HealthFigures:
    """Judge z on `images`, which training has not seen; arguments and errors are those of `errors_of_z`."""
    errors = errors_of_z(model, images, unconditional=unconditional, batch_size=batch_size)
    right, wrong, none = (tuple(row.tolist()) for row in errors.mean(dim=2))
    ratio = sum(wrong) / max(sum(right), 1e-12)
    return HealthFigures(
        n=len(images), timesteps=timesteps_of_health(model), right=right, other=wrong, without=none,
        ratio=ratio, used=ratio >= USED,
    )  # fmt: skip


def timesteps_of_health(model: DiffusionAutoencoder) -> tuple[int, ...]:
    """The timesteps nearest to `LOG_SNRS`."""
    return tuple(round(float(model.schedule.timestep_at(torch.tensor(math.exp(-s / 2)).double()))) for s in LOG_SNRS)


def errors_of_z(
    model: DiffusionAutoencoder, images: ImageSet, *, unconditional: bool = False, batch_size: int = 32
) -> Float64[Tensor, "3 t n"]:
    """Errors of x0 of every image: with its own z, another's, and none; at `timesteps_of_health`.

    Noise is a function of path and timestep. The other image is half the set away: neighbours in a folder may be much
    alike.
    unconditional: the model was trained with z left out at times, so that it has an answer without z.
    Raises ValueError for fewer than two images.
    """
    if len(images) < 2:
        raise ValueError("the z of another image needs at least two images")
    inputs = model.read(images)
    names = [draws.name_of(path) for path in images.paths]
    timesteps = timesteps_of_health(model)
    errors = torch.zeros(3, len(timesteps), len(names), dtype=torch.float64)
    parts = [slice(start, min(start + batch_size, len(names))) for start in range(0, len(names), batch_size)]
    with evaluation(model):
        z = torch.cat([model.encoder(model.pad(inputs.part(rows).to(model.device))) for rows in parts])
        other = z.roll(len(z) // 2, dims=0)
        mean = z.mean(0, keepdim=True).expand_as(z)
        for rows in parts:
            x0 = model.pad(inputs.part(rows).to(model.device))
            without = Condition() if unconditional else Condition(z=mean[rows])
            for level, timestep in enumerate(timesteps):
                eps = draws.normal([(*name, timestep) for name in names[rows]], tuple(x0.shape[1:])).to(x0)
                for row, cond in enumerate((Condition(z=z[rows]), Condition(z=other[rows]), without)):
                    errors[row, level, rows] = squared_errors(model, x0, eps, timestep, cond).cpu()
    return errors


def squared_errors(
    model: DiffusionAutoencoder, x0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], timestep: int,
    cond: Condition,
) -> Float64[Tensor, " b"]:  # fmt: skip
    """Error of every predicted x0 on the [0, 1] scale, mean over pixels.

    The prediction is clipped to [-1, 1], which keeps what networks that predict eps say here in bounds.
    """
    t = torch.full((len(x0),), float(timestep), device=x0.device)
    x_t = model.schedule.diffuse(x0, eps, t)
    predicted = bind(model.denoiser, cond)(x_t, t).x0.clamp(-1, 1)
    return ((predicted - x0) / 2).double().square().mean(dim=(1, 2, 3))


def verdict(ratio: float, used: bool) -> str:
    """One sentence for people: whether z is used, and what to do where it is not."""
    if used:
        return f"z is used: with another image's z the error at high noise is {ratio:.2f} times that with the right one"
    return (
        f"z is hardly used: with another image's z the error at high noise is only {ratio:.2f} times that with the "
        f"right one, {USED:g} are wanted; train longer, weigh high noise more (--objective.weighting v), give more "
        "training images, or a decoder with fewer channels and an encoder with more"
    )
