"""`zsem presets`: the ready-made settings, to look at and to copy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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

    def run(self) -> Report:
        from zsem.training.presets import PRESETS, find_preset, preset_json

        if self.name is not None:
            preset = find_preset(self.name)
            return Report(figures=asdict(preset), notes=[preset_json(preset)])
        rows = [
            {
                "preset": name,
                "px": str(preset.model.image_size),
                "z": str(preset.model.z_dim),
                "batch": str(preset.training.batch_size),
                "images to go through": f"{preset.recommended_images:,}",
            }
            for name, preset in PRESETS.items()
        ]
        return Report(
            figures={name: asdict(preset) for name, preset in PRESETS.items()},
            rows=rows,
            notes=["`zsem presets tiny > mine.json` writes a file to change; `--preset mine.json` trains with it."],
        )
