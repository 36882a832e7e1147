"""How a diffusion model of images makes samples: solver, grid and guidance, as one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from zsem.diffusion.guidance import Interval, Scalar
from zsem.models.classifier import NoisyClassifier
from zsem.models.walking import Walking
from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class Sampling(Walking):
    """The settings of `DiffusionModel.sample`."""

    guidance_scale: float | int = 1.0
    """how far to extrapolate from no class to the class: 1 = none, 0 = samples of no class"""
    guidance_rescale: float | int = 0.0
    """0..1, how far the contrast of extrapolated predictions is pulled back (2305.08891, section 3.4)"""
    guidance_interval: Interval | None = None
    """first and last timestep at which guidance of any kind acts; all of them without"""
    classifier: NoisyClassifier | None = None
    """a classifier of noisy images that guides towards the classes"""
    classifier_scale: float | int = 0.0
    """how much it guides: 0 = none"""
    classifier_form: Literal["score", "mean"] = "score"
    """add its gradient to eps (ADM, algorithm 2), or to the mean of the steps of ddpm (algorithm 1)"""
    scalars: Sequence[tuple[float | int, Scalar]] = ()
    """weights, and scalars of the predicted image that are to grow, e.g. of `zsem.models.scalars` (2112.05744)"""
    scalars_through: Literal["denoiser", "x0"] = "denoiser"
    """their gradient goes back through the network, or takes eps for constant: cheaper and rougher"""
    scalars_normalised: bool = False
    """bring the gradient of each to one size, so that a weight means the same for all of them"""

    @property
    def classified(self) -> bool:
        """Whether a classifier guides."""
        return self.classifier is not None and self.classifier_scale != 0

    def check(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int | None,
        class_names: tuple[str, ...],
        class_dropout: float,
    ) -> None:
        """Raise ZsemError where the settings contradict each other or ask for what a model was not trained for."""
        self.check_solver()
        for name in ("guidance_scale", "classifier_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ZsemError(f"{name} must be a finite number, not {getattr(self, name)}")
        if not 0 <= self.guidance_rescale <= 1:
            raise ZsemError(f"guidance_rescale must lie in 0..1, not {self.guidance_rescale:g}")
        if self.guidance_interval is not None and self.guidance_interval[0] > self.guidance_interval[1]:
            first, last = self.guidance_interval
            raise ZsemError(f"guidance_interval is the first and the last timestep: {first:g} comes after {last:g}")
        if self.guidance_scale != 1 and num_classes is None:
            raise ZsemError(
                "this model has no classes to extrapolate to: leave guidance_scale at 1, or use a classifier"
            )
        if self.guidance_scale != 1 and class_dropout == 0:
            raise ZsemError(
                "this model never saw an image without its class (class_dropout is 0), so there is nothing to "
                "extrapolate from: leave guidance_scale at 1, or use a classifier"
            )
        self._check_classifier(image_shape, num_classes, class_names)

    def _check_classifier(
        self, image_shape: tuple[int, int, int], num_classes: int | None, class_names: tuple[str, ...]
    ) -> None:
        """The same of the classifier and what belongs to it."""
        if self.classifier is None:
            if self.classifier_scale != 0:
                raise ZsemError("classifier_scale is given without a classifier: name one, or leave the scale at 0")
            return
        if self.classified and self.classifier_form == "mean" and self.solver != "ddpm":
            raise ZsemError(
                f"the mean form of classifier guidance is for the solver ddpm, not {self.solver}: use score"
            )
        about = self.classifier.config
        if about.image_shape != image_shape:
            shapes = [" x ".join(map(str, shape)) for shape in (about.image_shape, image_shape)]
            raise ZsemError(f"the classifier is for images of {shapes[0]}, this model makes {shapes[1]}: take another")
        if num_classes not in {None, about.num_outputs}:
            raise ZsemError(f"the classifier knows {about.num_outputs} classes and this model {num_classes}")
        if num_classes is not None and class_names and about.class_names and class_names != about.class_names:
            differ = next(pair for pair in zip_longest(class_names, about.class_names) if pair[0] != pair[1])
            raise ZsemError(
                f"what this model calls {differ[0]!r} is {differ[1]!r} to the classifier: take one of the same classes"
            )
