"""Other ways to edit an image with a diffusion model, which Asyrp is compared with (2210.10960, figure 1).

Each is a function of a model, images and a target, and gives edited images, float32, nominally in [-1, 1]: by an image
that shows roughly what is wanted (`sdedit`, `lowpass_guided`), by a classifier (`classifier_guided`), or by new weights
(`tuned`, which `zsem.training.shifts.tune` makes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import ClassifierGuidance, Interval, Scalar, SemanticGuidance, Steered, idle, limited
from zsem.diffusion.schedule import level_like
from zsem.diffusion.solvers import last
from zsem.hspace.collect import batches, of_rows
from zsem.hspace.editable import Editable, condition_for, decode, invert
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import Classes
from zsem.models.imaging import STEPS, Progress, evaluation
from zsem.models.inputs import Images
from zsem.models.walking import Walking
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition, Denoiser, Prediction


@dataclass(frozen=True, kw_only=True)
class Target:
    """What images are to become; each method reads its own part.

    guides: an image for each that shows it roughly, in [-1, 1]: strokes, a paste, `towards_mean`; None = itself.
    scalar: of images in [-1, 1], the more the better, e.g. of `zsem.models.scalars`, or the log p of a judge.
    classifier, label: of noisy images, and the class that is wanted.
    model: with weights that were tuned to it.
    """

    guides: Float[Tensor, "n c h w"] | None = None
    scalar: Scalar | None = None
    classifier: NoisyClassifier | None = None
    label: int | None = None
    model: Editable | None = None


def towards_mean(
    images: Float[Tensor, "n c h w"], without: Float[Tensor, "m c h w"], having: Float[Tensor, "k c h w"]
) -> Float[Tensor, "n c h w"]:
    """Images plus the difference of the mean images of two sets, clipped: the guide that needs nobody to paint it."""
    return (images + having.mean(dim=0) - without.mean(dim=0)).clamp(-1, 1)


def sdedit(
    model: Editable,
    images: Images,
    target: Target,
    *,
    t0: float | int,
    classes: Classes = None,
    solver: str = "unipc",
    steps: int = 20,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Noise the guides to timestep t0, then remove the noise (2108.01073, algorithm 1). A t0 of 0 gives them back.

    classes: what the model makes of them, where it is conditional: those that are wanted. An autoencoder is told the z
        of the guides.
    solver: of `SOLVERS`, with `steps` levels from t0 on. seed: of the noise, a function of (seed, position).
    Raises ZsemError for guides that do not fit, a t0 outside the schedule, or more steps than there are levels.
    """
    guides = _guides(model, images, target)
    if not 0 <= t0 <= model.schedule.timesteps - 1:
        raise ZsemError(f"t0 must lie in 0..{model.schedule.timesteps - 1}, not {t0:g}")
    walking = Walking(solver=solver, steps=min(steps, int(t0) + 1), clip=False)
    walking.check_solver()
    if t0 == 0:
        return guides
    u = float(model.schedule.u(torch.tensor(float(t0), dtype=torch.float64)))
    grid = walking.grid(model.schedule, u_max=u)

    def walk(x0: Tensor, cond: Condition, rows: slice) -> Tensor:
        eps = model.fresh_noise(len(x0), seed=seed, first=rows.start).x_T.to(x0)
        x = float(grid.alpha[0]) * x0 + float(grid.sigma[0]) * eps
        more = model.step_noise(seed, range(rows.start, rows.stop))
        return last(walking.walk(bind(model.denoiser, cond), x, model.schedule, more, u_max=u))[0]

    return _each(model, guides, classes, walk, batch_size, progress)


def lowpass_guided(
    model: Editable,
    images: Images,
    target: Target,
    *,
    factor: int = 8,
    interval: Interval | None = None,
    classes: Classes = None,
    solver: str = "unipc",
    steps: int = 20,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Samples whose means over blocks of factor x factor pixels are those of the guides (after ILVR, 2108.02938).

    ILVR replaces the low-pass of each noisy state; here it is that of the predicted x0, which every solver goes on
    from, and at the last step it is met exactly.
    interval: first and last timestep at which it acts; None = all. Other arguments and errors as for `sdedit`.
    """
    guides, walking = _guides(model, images, target), Walking(solver=solver, steps=steps, clip=False)
    walking.check_solver()
    if factor < 1 or any(side % factor for side in model.noise_shape[1:]):
        raise ZsemError(f"factor must divide the sides of the images, {model.noise_shape[1:]}, not be {factor}")

    def walk(x0: Tensor, cond: Condition, rows: slice) -> Tensor:
        x = model.fresh_noise(len(x0), seed=seed, first=rows.start).x_T.to(x0)
        guided = LowPass(bind(model.denoiser, cond), x0, factor, interval=interval)
        more = model.step_noise(seed, range(rows.start, rows.stop))
        return last(walking.walk(guided, x, model.schedule, more))[0]

    return _each(model, guides, classes, walk, batch_size, progress)


def classifier_guided(
    model: Editable,
    images: Images,
    target: Target,
    *,
    scale: float | int = 1.0,
    interval: Interval | None = None,
    normalise: bool = False,
    classes: Classes = None,
    steps: int = STEPS,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Invert the images exactly, and decode them under guidance: a scale of 0 gives them back (ADM, section 4).

    By the log p of the target's class where it has a classifier of noisy images, else by its scalar of the predicted
    x0, whose gradient goes through the network.
    scale: of the gradient. interval: first and last timestep at which it acts; None = all. normalise: see
        `SemanticGuidance`, for scalars. classes: of a model that is conditional, as the images are.
    Raises ZsemError for a target with neither.
    """
    if target.scalar is None and (target.classifier is None or target.label is None):
        raise ZsemError("classifier guidance needs a classifier and a label, or a scalar of images: give one")
    codes = invert(model, images, classes=classes, steps=steps, batch_size=batch_size)

    def steer(cond: Condition, rows: slice) -> BoundDenoiser:
        denoise = bind(model.denoiser, cond)
        if target.classifier is not None and target.label is not None:
            labels = torch.full((rows.stop - rows.start,), target.label)
            log_prob = target.classifier.log_prob(labels, model.schedule)
            return ClassifierGuidance(denoise, lambda x_t, t: log_prob(model.crop(x_t), t), scale, interval=interval)
        scalar = target.scalar
        assert scalar is not None
        terms = [(scale, lambda x0: scalar(model.crop(x0)))]
        return SemanticGuidance(denoise, terms, normalise=normalise, interval=interval)

    return decode(model, codes, classes=classes, batch_size=batch_size, steer=steer, progress=progress)


def tuned(
    model: Editable,
    images: Images,
    target: Target,
    *,
    t_start: float | int | None = None,
    gain: float | int | None = None,
    classes: Classes = None,
    steps: int = STEPS,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Invert the images with the model, and decode with the weights of the target's from t_start on (DiffusionCLIP).

    t_start: first timestep of the new weights, t_0 there; None = what the target's history says, else all.
    gain: how far to extrapolate from the model's eps to that of the new weights; None = what they were trained at.
    classes: of a model that is conditional, as the images are.
    Raises ZsemError for a target without a model, or one of another architecture.
    """
    other = target.model
    if other is None or other.config != model.config:
        raise ZsemError("tuned weights are those of a model of the same architecture: make one with `tune`")
    start = other.history.get("t_start") if t_start is None else t_start
    interval = (0.0, float(model.schedule.timesteps - 1 if start is None else start))
    reach = other.history.get("gain", 1.0) if gain is None else gain
    codes = invert(model, images, classes=classes, steps=steps, batch_size=batch_size)

    def steer(cond: Condition, _: slice) -> BoundDenoiser:
        return bind(Replaced(model.denoiser, other.denoiser, interval, reach), cond)

    return decode(model, codes, classes=classes, batch_size=batch_size, steer=steer, progress=progress)


class LowPass(Steered):
    """A denoiser whose predicted x0 has the block means of a guide."""

    _alike = False  # the guides are those of one batch

    def __init__(
        self,
        denoise: BoundDenoiser | Denoiser,
        guides: Float[Tensor, "b c h w"],
        factor: int,
        *,
        interval: Interval | None = None,
    ) -> None:
        """factor: side of the blocks, pixels. interval: first and last timestep, both inclusive, at which it acts."""
        super().__init__(denoise)
        self._wanted, self._factor, self._interval = lowpass(guides, factor), factor, interval

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], *cond: Condition) -> Prediction:
        """One evaluation of the network."""
        prediction = self._denoise(x_t, t, *cond)
        if idle(self._interval, t):
            return prediction
        change = limited(self._wanted.to(x_t) - lowpass(prediction.x0, self._factor), self._interval, t)
        alpha, sigma = level_like(self.schedule, t, x_t)
        return prediction.steer(-change * alpha / sigma, sigma / alpha)


class Replaced(Steered):
    """A denoiser in whose place another one stands within an interval of timesteps, or eps + gain (other - eps)."""

    def __init__(self, denoise: Denoiser, other: Denoiser, interval: Interval, gain: float | int = 1.0) -> None:
        """interval: first and last timestep, both inclusive."""
        super().__init__(denoise)
        self._plain, self._other, self._interval, self._gain = denoise, other, interval, gain

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """An evaluation of either network, or of both; t is the same for all images, as solvers and codecs have it."""
        if idle(self._interval, t):
            return self._plain(x_t, t, cond)
        other = self._other(x_t, t, cond)
        if self._gain == 1:
            return other
        plain = self._plain(x_t, t, cond)
        alpha, sigma = level_like(self.schedule, t, x_t)
        return plain.steer(self._gain * (other.eps - plain.eps), sigma / alpha)


def lowpass(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c h w"]:
    """Means over blocks of factor x factor pixels, in every pixel of the block."""
    means = F.avg_pool2d(x, factor)
    return means.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def _guides(model: Editable, images: Images, target: Target) -> Float[Tensor, "n c h w"]:
    """The guides, or the images themselves. ZsemError: they do not fit."""
    found = model.read(images).part(slice(None))
    if target.guides is None:
        return found
    if target.guides.shape != found.shape:
        raise ZsemError(f"each image has one guide of its size: {list(found.shape)}, not {list(target.guides.shape)}")
    return target.guides


def _each(
    model: Editable,
    guides: Float[Tensor, "n c h w"],
    classes: Classes,
    walk: Callable[[Tensor, Condition, slice], Tensor],
    batch_size: int,
    progress: Progress | None,
) -> Float[Tensor, "n c h w"]:
    """The walks of all guides, batch by batch."""
    out = []
    for rows in batches(len(guides), batch_size):
        with evaluation(model):
            x0 = model.pad(guides[rows].to(model.device))
            cond = condition_for(model, x0, of_rows(classes, rows))
            out.append(model.crop(walk(x0, cond, rows)).float().cpu())
        if progress is not None:
            progress(rows.stop, len(guides))
    return torch.cat(out)
