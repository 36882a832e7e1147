"""`zsem presets`: the ready-made settings, to look at and to copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report


@dataclass(frozen=True, kw_only=True)
class Presets(Command):
    """List the presets of `zsem train`, or print one as a file to copy: zsem presets tiny > mine.json.

    A preset file may keep "base": "tiny" and the settings that differ; `zsem train DATA --preset mine.json` reads it.
    """

    name: Annotated[Positional[str | None], arg(metavar="PRESET")] = None
    """a preset, or a file of one; without it all presets are listed"""
    model: str | None = None
    """presets for this kind of model alone: autoencoder (where a preset is named), diffusion, classifier, vae, gan"""

    def run(self) -> Report:
        from zsem.training.presets import PRESETS, find_preset, preset_json, preset_settings, presets_of

        if self.name is not None:
            preset = find_preset(self.name, self.model)
            return Report(figures=preset_settings(preset), notes=[preset_json(preset)])
        shown = PRESETS if self.model is None else {self.model: presets_of(self.model)}
        rows = [
            {
                "model": kind,
                "preset": name,
                "px": str(preset.model.image_size),
                "batch": str(preset.training.batch_size),
                "images to go through": f"{preset.recommended_images:,}",
            }
            for kind, named in shown.items()
            for name, preset in named.items()
        ]
        settings = {kind: {name: preset_settings(p) for name, p in named.items()} for kind, named in shown.items()}
        return Report(
            figures=settings,
            rows=rows,
            notes=["`zsem presets tiny > mine.json` writes a file to change; `--preset mine.json` trains with it."],
        )
