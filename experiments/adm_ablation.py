"""What each part of ADM's architecture is worth (2105.05233, table 1), on CIFAR-10 at the size of a CPU.

    python -m experiments.adm_ablation --cifar10 FILE [--minutes 240] [--number 1000] [--limit N] [--out runs/adm]

FILE: CIFAR-10 as a folder or archive of class folders below train and test. Every row is a class-conditional model that
differs from the base in one part; the last has all that ADM chose. All are trained on the same number of images, such
that they take `--minutes` together by their speeds on this machine, which are measured first and kept in OUT. A stopped
run goes on.
OUT/report.md has the table: FD-EffLite0 of `--number` samples (UniPC-2, 20 steps) with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.cifar10 import class_samples
from experiments.runs import CIFAR10, Recipe, kept, train, trained
from experiments.samples import RESAMPLES, reference_of

from zsem.data.images import load_images
from zsem.evaluation.keeping import digest
from zsem.metrics.samples import Distribution, judge_distribution
from zsem.models.diffusion import DiffusionModel
from zsem.nets.features import load_efficientnet_lite0
from zsem.nets.unet import UNet
from zsem.training.log import clock
from zsem.training.presets import find_preset
from zsem.values.files import write_whole

# Maps of 16, 8 and 4 pixels take the place of 32, 16 and 8 in the paper's models of 128 pixels
BASE = UNet.Config(
    channels=64, channel_mult=(1, 2, 2), attention_resolutions=(8,), embed_channels=256, patch=2, resample="conv"
)
ADM: dict[str, Any] = {"num_heads": 4, "attention_resolutions": (16, 8, 4), "resample": "block"}
ROWS: dict[str, dict[str, Any]] = {
    "base": {},
    "depth instead of width": {"channels": 50, "num_res_blocks": 4, "embed_channels": 200},  # of equal size
    "more heads": {"num_heads": 4},
    "attention on all levels": {"attention_resolutions": (16, 8, 4)},
    "resampling by residual blocks": {"resample": "block"},
    "residual sums over sqrt(2)": {"rescale": True},
    "ADM": ADM,
}


def recipe_of(row: str, *, images: int, limit: int | None) -> Recipe:
    """The training of a row."""
    nano = find_preset("nano", "diffusion")
    preset = replace(nano, model=replace(nano.model, unet=replace(BASE, **ROWS[row])))
    return Recipe(says=row, data=CIFAR10, preset=preset, images=images, conditional=True, limit=limit)


def name_of(row: str) -> str:
    """The name of a row's run."""
    return "adm-" + "".join(letter if letter.isalnum() else "-" for letter in row.lower()).rstrip("-")


def plan(cifar10: str, minutes: float, limit: int | None, out: Path) -> dict[str, Any]:
    """Size and speed of every row, and the images that each is trained on; measured once, so that runs can go on."""
    names, rows = [], {}
    for row in ROWS:
        recipe = recipe_of(row, images=0, limit=limit)
        names.append(recipe.run(name_of(row)).name)

        def measure(recipe: Recipe = recipe) -> dict[str, Any]:
            measured = recipe.estimate(cifar10)
            return {"parameters": measured.parameters, "images_per_second": measured.images_per_second}

        rows[row] = kept(out / "speeds" / f"{names[-1]}.json", measure)

    def decide() -> dict[str, Any]:
        batch = find_preset("nano", "diffusion").training.batch_size
        images = 60 * minutes / sum(1 / measured["images_per_second"] for measured in rows.values())
        return {"rows": rows, "images": max(1, int(images) // batch) * batch}

    return kept(out / f"plan-{digest([minutes, names])}.json", decide)


def judge(recipes: Mapping[str, Recipe], cifar10: str, number: int, out: Path) -> dict[str, dict[str, Any]]:
    """Figures of samples of every row's model."""

    @functools.cache
    def reference() -> Distribution:
        return reference_of(load_images(cifar10, size=32), load_efficientnet_lite0())

    found = {}
    for row, recipe in recipes.items():

        def work(row: str = row, recipe: Recipe = recipe) -> dict[str, Any]:
            model = trained(recipe, name_of(row), "python -m experiments.adm_ablation", DiffusionModel)
            samples = class_samples(model, number, solver="unipc", steps=20)
            return asdict(judge_distribution(reference(), samples, resamples=RESAMPLES))

        found[row] = kept(out / "cells" / f"{recipe.run(name_of(row)).name}-{number}.json", work)
    return found


def report(planned: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table, with what is of note."""
    base, lines = figures["base"], []
    for row, found in figures.items():
        net, size = replace(BASE, **ROWS[row]), planned["rows"][row]
        ends = found["frechet_interval"]
        change = "" if row == "base" else f"{found['frechet'] - base['frechet']:+.1f}"
        lines.append(
            f"| {row} | {net.channels} | {net.num_res_blocks} | {net.num_heads} "
            f"| {', '.join(map(str, net.attention_resolutions))} | {net.resample} | {'yes' if net.rescale else 'no'} "
            f"| {size['parameters'] / 1e6:.1f} | {size['images_per_second']:.0f} "
            f"| {found['frechet']:.1f} ({ends['low']:.1f} - {ends['high']:.1f}) | {change} |"
        )
    seconds = sum(planned["images"] / size["images_per_second"] for size in planned["rows"].values())
    return [
        "# Parts of ADM's architecture on CIFAR-10",
        "",
        f"Every row went through {planned['images']:,} images in training ({clock(seconds)} in all, by the speeds "
        f"below). FD-EffLite0 of {base['n']:,} samples to {base['n_reference']:,} training images, with its 95 % "
        "bootstrap interval; one training of each.",
        *(["", f"Note: {base['note']}."] if base["note"] else []),
        "",
        "| | channels | blocks | heads | attention | resampling | / sqrt(2) | parameters, millions | images/s "
        "| FD-EffLite0 | to base |",
        "|---" * 11 + "|",
        *lines,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, metavar="FILE")
    parser.add_argument("--minutes", type=float, default=240.0, help="of training, for all rows together")
    parser.add_argument("--number", type=int, default=1000, help="samples of a row")
    parser.add_argument("--limit", type=int, help="train on so many different images at most")
    parser.add_argument("--out", type=Path, default=Path("runs/adm"))
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.number < 4:
        parser.error("--minutes must be above 0, and --number at least 4")
    cifar10, limit = arguments.cifar10, arguments.limit
    planned = plan(cifar10, arguments.minutes, limit, arguments.out)
    recipes = {row: recipe_of(row, images=planned["images"], limit=limit) for row in ROWS}
    train({name_of(row): recipe for row, recipe in recipes.items()}, cifar10)
    text = "\n".join(report(planned, judge(recipes, cifar10, arguments.number, arguments.out))) + "\n"
    write_whole(arguments.out / "report.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
