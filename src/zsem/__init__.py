"""zsem: images as codes that people can read, edit and decode, with diffusion models.

    model = zsem.load("runs/faces")
    codes = model.encode("photos/")
    images = model.decode(codes)  # the same pixels

The public names; each is imported when it is first used, so that `import zsem` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsem.api import fit_prior, load, load_prior, train
    from zsem.data.images import ImageSet, load_images
    from zsem.data.intensity import Intensity
    from zsem.data.pixels import to_uint8
    from zsem.diffusion.denoiser import NetworkDenoiser, bind
    from zsem.diffusion.guidance import ClassifierGuidance, Extrapolate, SemanticGuidance
    from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.models.classifier import NoisyClassifier
    from zsem.models.diffusion import DiffusionModel
    from zsem.models.mixture import LatentMixture
    from zsem.models.prior import LatentDiffusion, Prior
    from zsem.semantics.attributes import Semantics
    from zsem.semantics.edits import edit, interpolate
    from zsem.training.images import ImageOptions
    from zsem.values.codes import Codes, Noise
    from zsem.values.direction import Direction
    from zsem.values.errors import ZsemError
    from zsem.values.prediction import Condition, Prediction

_HOMES = {
    "zsem.api": ("fit_prior", "load", "load_prior", "train"),
    "zsem.data.images": ("ImageSet", "load_images"),
    "zsem.data.intensity": ("Intensity",),
    "zsem.data.pixels": ("to_uint8",),
    "zsem.diffusion.denoiser": ("NetworkDenoiser", "bind"),
    "zsem.diffusion.guidance": ("ClassifierGuidance", "Extrapolate", "SemanticGuidance"),
    "zsem.diffusion.schedule": ("NoiseSchedule", "TimeGrid"),
    "zsem.models.autoencoder": ("DiffusionAutoencoder",),
    "zsem.models.classifier": ("NoisyClassifier",),
    "zsem.models.diffusion": ("DiffusionModel",),
    "zsem.models.mixture": ("LatentMixture",),
    "zsem.models.prior": ("LatentDiffusion", "Prior"),
    "zsem.semantics.attributes": ("Semantics",),
    "zsem.semantics.edits": ("edit", "interpolate"),
    "zsem.training.images": ("ImageOptions",),
    "zsem.values.codes": ("Codes", "Noise"),
    "zsem.values.direction": ("Direction",),
    "zsem.values.errors": ("ZsemError",),
    "zsem.values.prediction": ("Condition", "Prediction"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ClassifierGuidance",
    "Codes",
    "Condition",
    "DiffusionAutoencoder",
    "DiffusionModel",
    "Direction",
    "Extrapolate",
    "ImageOptions",
    "ImageSet",
    "Intensity",
    "LatentDiffusion",
    "LatentMixture",
    "NetworkDenoiser",
    "Noise",
    "NoiseSchedule",
    "NoisyClassifier",
    "Prediction",
    "Prior",
    "SemanticGuidance",
    "Semantics",
    "TimeGrid",
    "ZsemError",
    "bind",
    "edit",
    "fit_prior",
    "interpolate",
    "load",
    "load_images",
    "load_prior",
    "to_uint8",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zsem' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
