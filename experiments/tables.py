"""What commands that make a table or a figure share: their options, the faces and models, cells that are kept, files.

A table is made of cells, each the figures of one model under one setting. A cell is kept in
OUT/cells/STAMP/CELL.json, where the stamp stands for the models, the images and the settings, so that a stopped command
goes on and a new model begins anew. NAME.json, NAME.md and the pictures in OUT are written again each time.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experiments.models import shared_run
from experiments.runs import images_of, kept
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zsem import api
from zsem.data.images import ImageSet, load_images
from zsem.data.pixels import FONT_SIZE, GAP
from zsem.evaluation.keeping import digest
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model, ModelT
from zsem.models.diffusion import DiffusionModel
from zsem.models.vae import VariationalAutoencoder
from zsem.training.log import clock
from zsem.values.files import write_whole

TABLES, QUICK, QUICK_FACES = Path("runs/tables"), 4, 400
MODELS = {"autoencoder": "avatars-64", "twin": "avatars-64-ddpm", "vae": "avatars-64-vae"}
"""Models by option, as experiments.models names them."""
STEPS = (10, 20, 50, 100)
"""T of the paper's tables."""
SEEDS, FEW_STEPS = 3, 20
"""Sets of fresh noise up to so many steps; beyond them there is one."""


def parser_of(name: str, doc: str | None, *, number: int, what: str) -> argparse.ArgumentParser:
    """The options that all of them have.

    name: of the table. doc: its command's description. number: how many images by default, and `what` they are.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=number, help=f"{what}; default {number}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} of them, to see that everything works")
    parser.add_argument("--out", type=Path, default=TABLES / name, help=f"default {TABLES / name}")
    parser.add_argument("--data", help="a folder of avatars in place of those that the models were trained on")
    for option, model in MODELS.items():
        parser.add_argument(f"--{option}", metavar="RUN", help=f"a model in place of {model} of experiments.models")
    return parser


def extent_of(parser: argparse.ArgumentParser, least: int = 4) -> argparse.Namespace:
    """The options as they were given, `number` as --quick says."""
    given = parser.parse_args()
    given.number = QUICK if given.quick else given.number
    if given.number < least:
        parser.error(f"--number must be at least {least}")
    return given


def sets_at(steps: int) -> int:
    """How many sets of fresh noise stand behind a figure: several at few steps, one with its interval at many."""
    return SEEDS if steps <= FEW_STEPS else 1


class Faces:
    """The faces of the tables and the models of them."""

    def __init__(self, given: argparse.Namespace) -> None:
        """given: the options of `parser_of`."""
        self._given = given

    @functools.cached_property
    def images(self) -> ImageSet:
        """All faces, or with --quick some, as the autoencoder sees them."""
        config = self.autoencoder.config
        limit = QUICK_FACES if self._given.quick else None
        return load_images(self.folder, size=config.image_size, channels=config.image_channels, limit=limit)

    @functools.cached_property
    def folder(self) -> Path:
        """Where they lie."""
        return Path(self._given.data or images_of("avatars-64", None))

    @functools.cached_property
    def autoencoder(self) -> DiffusionAutoencoder:
        return self._model("autoencoder", DiffusionAutoencoder)

    @functools.cached_property
    def twin(self) -> DiffusionModel:
        """The unconditional model of equal parameters that has seen as many images."""
        return self._model("twin", DiffusionModel)

    @functools.cached_property
    def vae(self) -> VariationalAutoencoder:
        return self._model("vae", VariationalAutoencoder)

    def held_out(self, number: int) -> ImageSet:
        """At most so many held-out faces, evenly spaced."""
        return self.images.held_out().limit(number)

    def stamp(self, *models: Model, **settings: Any) -> str:
        """Stands for models, all faces and settings."""
        return digest([[model.stamp for model in models], digest(self.images.sha256), settings])

    def run(self, option: str) -> str:
        """The folder or name of a model."""
        return getattr(self._given, option) or shared_run(MODELS[option])

    def _model(self, option: str, kind: type[ModelT]) -> ModelT:
        return api.load(self.run(option), kind=kind)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Figures to be made: evaluations of a network for one image that they take, and how they are made."""

    evaluations: int
    work: Callable[[], dict[str, Any]]


def fill(folder: Path, cells: Mapping[str, Cell]) -> dict[str, dict[str, Any]]:
    """The figures of all cells, found in `folder` or made and kept there; prints how long those will take."""
    missing = {name: cell for name, cell in cells.items() if not (folder / f"{name}.json").exists()}
    ahead, done, seconds = sum(cell.evaluations for cell in missing.values()), 0, 0.0
    print(
        f"{len(cells)} cells, {len(cells) - len(missing)} of them are there; {ahead:,} evaluations of a network for "
        "one image to go",
        flush=True,
    )
    found = {}
    for name, cell in cells.items():
        found[name] = kept(folder / f"{name}.json", cell.work)
        if name in missing and cell.evaluations:
            done, seconds = done + cell.evaluations, seconds + max(found[name]["seconds"], 0.1)
            rate = done / seconds
            print(f"  {rate:,.1f} evaluations/s, {clock((ahead - done) / rate)} (h:mm:ss) to go", flush=True)
    return found


def publish(out: Path, name: str, lines: Sequence[str], figures: Mapping[str, Any], *, quick: bool) -> None:
    """Write NAME.md and NAME.json, and print the former."""
    warning = [f"**--quick: {QUICK} images, to see that everything works. These are no figures.**", ""] if quick else []
    text = "\n".join([lines[0], "", *warning, *lines[1:]]) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{name}.json", (json.dumps({"quick": quick, **figures}, indent=2) + "\n").encode())
    write_whole(out / f"{name}.md", text.encode())
    print(f"\n{text}\n{out / name}.md")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def within(value: float, interval: Mapping[str, float], form: str) -> str:
    """A figure with its interval."""
    return f"{value:{form}} ({interval['low']:{form}} - {interval['high']:{form}})"


def spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation (n - 1) of a figure over seeds."""
    all_of_them = torch.tensor(values, dtype=torch.float64)
    return f"{all_of_them.mean():{form}} ± {all_of_them.std():{form}}"


def beside(sheets: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures next to each other, each below its name."""
    head, font = FONT_SIZE + 3 * GAP, ImageFont.load_default(FONT_SIZE)
    width = sum(sheet.width for sheet in sheets.values()) + 4 * GAP * (len(sheets) - 1)
    out = Image.new("RGB", (width, head + max(sheet.height for sheet in sheets.values())), "white")
    pen, left = ImageDraw.Draw(out), 0
    for name, sheet in sheets.items():
        pen.text((left + 2 * GAP, head // 2), name, fill="black", font=font, anchor="lm")
        out.paste(sheet, (left, head))
        left += sheet.width + 4 * GAP
    return out


def equal_pixels(a: Tensor, b: Tensor) -> float:
    """Share of equal numbers in two tensors of uint8 pixels."""
    return float((a == b).double().mean())
