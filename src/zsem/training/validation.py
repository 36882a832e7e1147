"""Figures on held-out images, always with the same noise, so that different times, runs and machines compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.diffusion.losses import ErrorKind, Weighting, diffusion_loss, weight
from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import ImageModel, evaluation
from zsem.models.prior import LatentDiffusion
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

LEVELS = 8  # timesteps, in the middle of as many equal parts of 0..T-1

Score = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""eps [b, c, h, w] and t [b] to figures of every image, [b] each."""


@dataclass(frozen=True, kw_only=True)
class ValidationFigures:
    """What a validation has found, over `n` images."""

    n: int
    """Number of images."""
    loss: float
    """Mean over the timesteps, weighted as in training: what the training loss would be on these images."""
    levels: dict[str, float]
    """Mean squared error of v at each timestep, whatever the weighting and whatever the network predicts."""


@dataclass(frozen=True, kw_only=True)
class ClassifierFigures:
    """What the validation of a classifier has found, over the `n` images that have a class."""

    n: int
    """Number of images."""
    loss: float
    """Mean cross-entropy over images and timesteps, nats."""
    accuracy: dict[str, float]
    """Share of the images whose class is found, at each timestep."""


@dataclass(frozen=True, kw_only=True)
class LatentFigures:
    """What the validation of a latent DDIM has found, over `n` held-out codes."""

    n: int
    """Number of codes."""
    loss: float
    """Mean over the timesteps, weighted as in training: what the training loss would be on these codes."""
    levels: dict[str, float]
    """Mean error of eps at each timestep, squared or absolute as in training, not weighted."""


def validate(
    model: DiffusionAutoencoder | DiffusionModel,
    images: ImageSet,
    weighting: Weighting,
    *,
    levels: int = LEVELS,
    batch_size: int = 32,
) -> ValidationFigures:
    """The denoising loss of `model` on `images`, each with noise that is a function of its path and the timestep.

    A model with classes is told those of the images; images without one are left out. What teaches a learned variance
    is no part of the loss.
    Raises ZsemError where a model with classes is given no image that has one.
    """
    classes = None
    if isinstance(model, DiffusionModel) and model.config.unet.num_classes is not None:
        images, classes = of_classes(images, model.config.class_names, model.config.unet.num_classes)
    timesteps = middles(model.schedule, levels)

    def score(x0: Tensor, rows: slice) -> Score:
        if isinstance(model, DiffusionAutoencoder):
            cond = Condition(z=model.encoder(x0))
        else:
            cond = Condition(classes=None if classes is None else classes[rows].to(x0.device))
        return lambda eps, t: (diffusion_loss(model.denoiser, x0, eps, t, cond, "v"),)

    (errors,) = means_at(timesteps, model, images, score, batch_size)
    alpha, sigma = model.schedule.level(torch.tensor(timesteps, dtype=torch.float64))
    factors = weight(weighting, "v", (alpha / sigma) ** 2)
    return ValidationFigures(n=len(images), loss=float((factors * errors).mean()), levels=named(timesteps, errors))


def validate_classifier(
    model: NoisyClassifier, images: ImageSet, *, levels: int = LEVELS, batch_size: int = 32
) -> ClassifierFigures:
    """Loss and accuracy of `model` on those of `images` that have a class it knows, with noise as in `validate`.

    Raises ZsemError where none has.
    """
    images, classes = of_classes(images, model.config.class_names, model.config.num_outputs)
    timesteps = middles(model.schedule, levels)

    def score(x0: Tensor, rows: slice) -> Score:
        wanted = classes[rows].to(x0.device)

        def figures(eps: Tensor, t: Tensor) -> tuple[Tensor, ...]:
            logits = model(model.schedule.diffuse(x0, eps, t.float()), t.float())
            return F.cross_entropy(logits, wanted, reduction="none"), (logits.argmax(dim=1) == wanted).float()

        return figures

    losses, right = means_at(timesteps, model, images, score, batch_size)
    return ClassifierFigures(n=len(images), loss=float(losses.mean()), accuracy=named(timesteps, right))


def validate_latent(
    model: LatentDiffusion, z: Float[Tensor, "n d"], weighting: Weighting, error: ErrorKind, *, levels: int = LEVELS
) -> LatentFigures:
    """The denoising loss of `model` on raw codes z, each with noise that is a function of its row and the timestep."""
    timesteps = middles(model.schedule, levels)
    x0, errors = model.normalise(z), []
    with evaluation(model):
        for timestep in timesteps:
            eps = draws.normal([(row, timestep) for row in range(len(z))], tuple(x0.shape[1:])).to(x0)
            t = torch.full((len(z),), timestep, device=x0.device)
            errors.append(
                diffusion_loss(model.denoiser, x0, eps, t, Condition(), "simple", error=error).double().mean()
            )
    found = torch.stack(errors).cpu()
    alpha, sigma = model.schedule.level(torch.tensor(timesteps, dtype=torch.float64))
    factors = weight(weighting, "eps", (alpha / sigma) ** 2)
    factors = factors.sqrt() if error == "l1" else factors
    return LatentFigures(n=len(z), loss=float((factors * found).mean()), levels=named(timesteps, found))


def of_classes(images: ImageSet, names: Sequence[str], number: int) -> tuple[ImageSet, Int64[Tensor, " n"]]:
    """Those images that have a class which a model knows, and its index there for each.

    names: of the model's classes; where there are none the indices of the images are taken as they are.
    number: of the model's classes.
    Raises ZsemError where no image has such a class.
    """
    classes = images.classes
    if names:
        known = [names.index(name) if name in names else -1 for name in images.class_names]
        classes = torch.tensor([*known, -1])[classes]  # -1, of no class, is the last
    rows = ((classes >= 0) & (classes < number)).nonzero()[:, 0]
    if len(rows) == 0:
        raise ZsemError(f"none of the images of {images.source} is of a class that the model knows: give some that are")
    return images.subset(rows.tolist()), classes[rows]


def middles(schedule: NoiseSchedule, levels: int) -> list[int]:
    """The timesteps in the middle of equal parts of all."""
    return [(2 * level + 1) * schedule.timesteps // (2 * levels) for level in range(levels)]


def named(timesteps: Sequence[int], figures: Float64[Tensor, " levels"]) -> dict[str, float]:
    """A figure for each timestep, as JSON has it."""
    return {str(timestep): float(figure) for timestep, figure in zip(timesteps, figures, strict=True)}


def means_at(
    timesteps: Sequence[int],
    model: ImageModel | NoisyClassifier,
    images: ImageSet,
    score: Callable[[Tensor, slice], Score],
    batch_size: int,
) -> Float64[Tensor, "figures levels"]:
    """The means over images of figures at each timestep, with noise that is a function of (path, timestep).

    score: told some of the images as the networks see them, and their rows; called without gradients.
    """
    inputs, names = model.read(images), [draws.name_of(path) for path in images.paths]
    sums: Tensor | float = 0.0
    with evaluation(model):
        for start in range(0, len(names), batch_size):
            rows = slice(start, min(start + batch_size, len(names)))
            x0 = inputs.part(rows).to(model.device)
            x0 = model.pad(x0) if isinstance(model, ImageModel) else x0
            figures = score(x0, rows)
            found = []
            for timestep in timesteps:
                eps = draws.normal([(*name, timestep) for name in names[rows]], tuple(x0.shape[1:])).to(x0)
                t = torch.full((len(x0),), timestep, device=x0.device)
                found.append(torch.stack([values.sum() for values in figures(eps, t)]))
            sums = sums + torch.stack(found, dim=1).double().cpu()
    return torch.as_tensor(sums) / len(names)
