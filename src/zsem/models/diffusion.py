"""Plain diffusion models of images: unconditional or conditional on classes (DDPM, improved DDPM, ADM)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zsem.data.intensity import EIGHT_BITS
from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.guidance import ClassifierGuidance, Clip, Extrapolate, Interval, Scalar, SemanticGuidance
from zsem.diffusion.likelihood import BitsPerDim, bits_per_dim
from zsem.diffusion.losses import TIMESTEP_DRAW, stratified_draws
from zsem.diffusion.schedule import Spacing, TimeGrid
from zsem.diffusion.solvers import Step, last
from zsem.models.classifier import NoisyClassifier
from zsem.models.imaging import STEPS, ImageModel, Progress, Steer, check_names, evaluation
from zsem.models.inputs import Images
from zsem.models.sampling import Sampling
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition, Denoiser

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
        class_dropout: float = 0.1
        """share of the training images whose class is dropped, for classifier-free guidance; means nothing without"""
        class_names: tuple[str, ...] = ()
        """names of the classes, in the order of their indices; empty where they are unknown"""

        @property
        def conditional(self) -> bool:
            """Whether the model is told classes."""
            return self.unet.num_classes is not None

        def for_classes(self, names: Sequence[str]) -> DiffusionModel.Config:
            """The same, conditional on classes of these names."""
            return replace(self, unet=replace(self.unet, num_classes=len(names)), class_names=tuple(names))

    config: Config
    ABSENT: ClassVar[Mapping[str, Any]] = {"class_dropout": 0.0}  # imports, which never saw a dropped class

    def __init__(self, config: Config) -> None:
        super().__init__(config, out_channels=config.image_channels * (2 if config.learned_range else 1))
        check_names(config.class_names, config.unet.num_classes or 0)
        if not 0 <= config.class_dropout < 1:
            raise ZsemError(f"class_dropout is a share of the images, from 0 to below 1, not {config.class_dropout:g}")

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The U-Net as a denoiser, for solvers, guidance and codecs."""
        return replace(super().denoiser, learned_range=self.config.learned_range)

    def sample(
        self,
        number: int,
        *,
        classes: Classes = None,
        seed: int = 0,
        first: int = 0,
        x_T: Float[Tensor, "n c h2 w2"] | None = None,
        solver: str = "unipc",
        steps: int = 20,
        spacing: Spacing = "logsnr",
        cleanest: int = 0,
        eta: float | int = 0.0,
        clip: bool = True,
        guidance_scale: float | int = 1.0,
        guidance_rescale: float | int = 0.0,
        guidance_interval: Interval | None = None,
        classifier: NoisyClassifier | None = None,
        classifier_scale: float | int = 0.0,
        classifier_form: Literal["score", "mean"] = "score",
        scalars: Sequence[tuple[float | int, Scalar]] = (),
        scalars_through: Literal["denoiser", "x0"] = "denoiser",
        scalars_normalised: bool = False,
        denoiser: Denoiser | None = None,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """New images, float32, nominally in [-1, 1]; each is a function of (seed, position) and the settings alone.

        classes: what to make; those of the classifier where the model itself has none.
        first: position of the first image, so that many can be made in parts.
        x_T: start from this noise, `noise_shape` each, e.g. `slerp` between that of two samples (`fresh_noise`).
        solver .. scalars_normalised: see `Sampling`. Classifier-free guidance needs a model trained with class_dropout;
            all kinds of guidance add up. With guidance_scale 1, classifier_scale 0 and scalars of weight 0 nothing else
            is evaluated.
        denoiser: in place of the model's own, below all guidance, e.g. `hspace.engine.Edited`.
        Raises ZsemError for settings that contradict each other, too many steps, or classes that do not exist.
        """
        settings = Sampling(
            solver=solver, steps=steps, spacing=spacing, cleanest=cleanest, eta=eta, clip=clip,
            guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, guidance_interval=guidance_interval,
            classifier=classifier, classifier_scale=classifier_scale, classifier_form=classifier_form, scalars=scalars,
            scalars_through=scalars_through, scalars_normalised=scalars_normalised,
        )  # fmt: skip
        out = []
        for rows, walk in self._walks(number, classes, seed, x_T, batch_size, settings, first, denoiser):
            with self._undisturbed(settings):
                out.append(self.crop(last(walk)[0]).float().cpu())
            if progress is not None:
                progress(rows.stop, number)
        return torch.cat(out)

    def progressive(
        self,
        number: int,
        *,
        classes: Classes = None,
        seed: int = 0,
        x_T: Float[Tensor, "n c h2 w2"] | None = None,
        batch_size: int = 16,
        **settings: Any,
    ) -> Iterator[Float[Tensor, "n c h w"]]:
        """After every step of `sample`, the clean images that it expects then: predictions of x0, float32 (DDPM, 4.3).

        settings: fields of `Sampling`. Other arguments and errors are those of `sample`.
        """
        chosen = Sampling(**settings)
        walks = [walk for _, walk in self._walks(number, classes, seed, x_T, batch_size, chosen)]
        while True:
            # not round the loop: the caller's code runs between the steps
            with self._undisturbed(chosen):
                done = [step for walk in walks if (step := next(walk, None)) is not None]
            if not done:
                return
            yield torch.cat([self.crop(step.prediction.x0).float().cpu() for step in done])

    def bits_per_dim(
        self,
        images: Images,
        *,
        classes: Classes = None,
        terms: int | None = None,
        seed: int = 0,
        clip: bool = True,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> BitsPerDim:
        """The variational bound on -log2 p(image) per pixel and channel, for 8-bit images (DDPM, eq. 5), float64, [n].

        All T timesteps of the training with the learned variance, or the posterior's where none is learned; an estimate
        without bias, as every term is taken at one draw of noise, which depends on (seed, position) alone.
        terms: evaluate the network so often instead of T times, evenly spaced in log-SNR: an estimate without bias too,
            with more scatter between images.
        clip: clip predictions of x0 to [-1, 1], as the official code does here too.
        Raises ZsemError for images that are not 8-bit, a model that pads them, classes that do not exist, or a
            number of terms that does not.
        """
        T = self.schedule.timesteps
        if terms is not None and not 2 <= terms <= T:
            raise ZsemError(f"a likelihood of {T} timesteps takes 2 to {T} terms, not {terms}")
        if self.noise_shape != self.image_shape:
            raise ZsemError("this model pads its images, and the bound would be that of the padding too")
        inputs = self.read(images)
        if inputs.intensity != EIGHT_BITS:
            raise ZsemError("bits per dimension are those of 8-bit images: give files, or a tensor of uint8")
        number = len(inputs.pixels)
        wanted = self._classes(classes, number)
        grid = TimeGrid.make(self.schedule, T, spacing="uniform")
        out = []
        with evaluation(self):
            for start in range(0, number, batch_size):
                rows = range(start, min(start + batch_size, number))
                denoise = bind(self.denoiser, self._condition(wanted, slice(rows.start, rows.stop)))
                out.append(bits_per_dim(
                    Clip(denoise) if clip else denoise, inputs.part(slice(rows.start, rows.stop)).to(self.device), grid,
                    noise=self.step_noise(seed, rows), variance="learned" if self.config.learned_range else "small",
                    subset=None if terms is None or terms == T else terms - 1,
                    places=stratified_draws([(seed, position) for position in rows], TIMESTEP_DRAW),
                ))  # fmt: skip
                if progress is not None:
                    progress(rows.stop, number)
        return BitsPerDim(**{
            part: torch.cat([getattr(bits, part) for bits in out]).cpu() for part in ("prior", "steps", "decoder")
        })  # fmt: skip

    def invert(
        self,
        images: Images,
        *,
        classes: Classes = None,
        codec: str = "exact",
        steps: int = STEPS,
        storage: torch.dtype = torch.float32,
        grid: TimeGrid | None = None,
        batch_size: int = 16,
        steer: Steer | None = None,
        progress: Progress | None = None,
    ) -> Codes:
        """The noise that images come from, as Codes with an empty z; arguments as in DiffusionAutoencoder.encode."""
        inputs = self.read(images)
        wanted = self._classes(classes, len(inputs.pixels))
        return self._encode(
            inputs, lambda _, rows: self._condition(wanted, rows), noise=True, codec=codec, steps=steps,
            storage=storage, batch_size=batch_size, steer=steer, progress=progress, grid=grid,
        )  # fmt: skip

    def decode(
        self,
        codes: Codes,
        *,
        classes: Classes = None,
        seed: int = 0,
        batch_size: int = 16,
        steer: Steer | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Pixels of codes, float32, nominally in [-1, 1] and not clipped; give the classes of `invert` again.

        steer: makes the denoiser for a part of the batch from its condition and the rows it stands for, where the
            plain one should not be used, e.g. `hspace.engine.Edited`.
        """
        wanted = self._classes(classes, len(codes))

        def denoiser(rows: slice) -> BoundDenoiser:
            cond = self._condition(wanted, rows)
            return bind(self.denoiser, cond) if steer is None else steer(cond, rows)

        return self._decode(codes, denoiser, seed=seed, batch_size=batch_size, progress=progress)

    def bottleneck(
        self,
        x_t: Float[Tensor, "b c h w"],
        t: int | float | Float[Tensor, " ..."],
        classes: Classes = None,
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """h, where Asyrp edits: what the U-Net knows of x_t between its two halves (2210.10960), `bottleneck_shape`.

        x_t: noisy images, `noise_shape` each (padded, see `prepare`). t: timesteps (0..T-1), one for all or one each.
        Without a gradient; `unet.down` has one. Raises ZsemError for another shape, and classes that do not exist.
        """
        return self._bottleneck(x_t, t, self.condition(classes, len(x_t)))

    def condition(self, classes: Classes, number: int) -> Condition:
        """What the network is told for `number` images of these classes. ZsemError: they do not exist."""
        return self._condition(self._classes(classes, number), slice(None))

    def _walks(
        self,
        number: int,
        classes: Classes,
        seed: int,
        x_T: Tensor | None,
        batch_size: int,
        settings: Sampling,
        first: int = 0,
        denoiser: Denoiser | None = None,
    ) -> Iterator[tuple[slice, Iterator[Step]]]:
        """The walks of a solver from noise to images, batch by batch, with the rows that each makes."""
        if number < 1 or batch_size < 1:
            raise ZsemError(f"ask for at least one sample, in batches of at least one, not {number} in {batch_size}")
        config = self.config
        settings.check(
            image_shape=self.image_shape, num_classes=config.unet.num_classes, class_names=config.class_names,
            class_dropout=config.class_dropout,
        )  # fmt: skip
        wanted = self._classes(classes, number, settings)
        if x_T is None:
            x_T = self.fresh_noise(number, seed=seed, first=first).x_T
        elif x_T.shape != (number, *self.noise_shape):
            raise ZsemError(f"x_T must be {[number, *self.noise_shape]} here, not {list(x_T.shape)}")
        for start in range(0, number, batch_size):
            rows = slice(start, min(start + batch_size, number))
            noise = self.step_noise(seed, range(first + rows.start, first + rows.stop))
            denoise = self._guided(self.denoiser if denoiser is None else denoiser, wanted, rows, settings)
            variance = "learned" if config.learned_range else "small"
            yield rows, settings.walk(denoise, x_T[rows].to(self.device), self.schedule, noise, variance=variance)

    def _guided(self, denoiser: Denoiser, classes: Tensor | None, rows: slice, settings: Sampling) -> BoundDenoiser:
        """The denoiser for some of the images, under the guidance that is asked for; clipped last."""
        told = self._condition(classes if self.config.unet.num_classes is not None else None, rows)
        denoise: BoundDenoiser = bind(denoiser, told)
        if settings.guidance_scale != 1 and told.classes is not None:
            denoise = Extrapolate(
                denoiser, Condition(classes=torch.full_like(told.classes, -1)), told, settings.guidance_scale,
                rescale=settings.guidance_rescale, interval=settings.guidance_interval,
            )  # fmt: skip
        if settings.classified and settings.classifier is not None and classes is not None:
            log_prob = settings.classifier.log_prob(classes[rows], self.schedule)
            denoise = ClassifierGuidance(
                denoise, lambda x_t, t: log_prob(self.crop(x_t), t), settings.classifier_scale,
                form=settings.classifier_form, interval=settings.guidance_interval,
            )  # fmt: skip
        if settings.scalars:
            # they are of images, without what the networks pad
            terms = [(weight, lambda x0, scalar=scalar: scalar(self.crop(x0))) for weight, scalar in settings.scalars]
            denoise = SemanticGuidance(
                denoise, terms, through=settings.scalars_through, normalise=settings.scalars_normalised,
                interval=settings.guidance_interval,
            )  # fmt: skip
        return denoise

    @contextmanager
    def _undisturbed(self, settings: Sampling) -> Iterator[None]:
        """`evaluation` of the model, and of the classifier where one guides."""
        with evaluation(self), evaluation(settings.classifier) if settings.classifier else nullcontext():
            yield

    def _classes(self, classes: Classes, number: int, settings: Sampling | None = None) -> Int[Tensor, " n"] | None:
        """Classes of the model, or of the classifier that guides it where it has none itself, one for each image."""
        known = self.config.unet.num_classes
        if known is None and settings is not None and settings.classifier is not None:
            known = settings.classifier.config.num_outputs
            if classes is None and not settings.classified:
                return None
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
