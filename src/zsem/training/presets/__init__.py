"""Ready-made settings of trainings, and their files."""

from zsem.training.presets.files import find_preset, preset_json, preset_settings, presets_of
from zsem.training.presets.preset import Preset, preset_type
from zsem.training.presets.priors import PRIORS, find_prior
from zsem.training.presets.table import PRESETS

__all__ = [
    "PRESETS", "PRIORS", "Preset", "find_preset", "find_prior", "preset_json", "preset_settings", "preset_type",
    "presets_of",
]  # fmt: skip
