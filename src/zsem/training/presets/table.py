"""All presets, by kind of model and name."""

from __future__ import annotations

from zsem.training.presets.autoencoders import AUTOENCODERS
from zsem.training.presets.baselines import GANS, VAES
from zsem.training.presets.diffusion import CLASSIFIERS, DIFFUSION
from zsem.training.presets.preset import Preset

PRESETS: dict[str, dict[str, Preset]] = {
    "autoencoder": AUTOENCODERS,
    "diffusion": DIFFUSION,
    "classifier": CLASSIFIERS,
    "vae": VAES,
    "gan": GANS,
}
