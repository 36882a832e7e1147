"""What the autoencoder and its unconditional twin expect of the clean image at every step (DiffAE, Fig. 6).

    python -m experiments.models train avatars-64 avatars-64-ddpm
    python -m experiments.figure6 [--number 1000] [--quick] [--out runs/tables/figure6]

Held-out faces are taken to noise in two ways: by each model along its own trajectory (exact codec), and with the same
fresh noise for both. At every noise level both predict x0, the autoencoder told the z of the face. curves.png has the
mean squared errors with their 95 % bootstrap intervals over faces, strips.png the predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from experiments.tables import Cell, Faces, extent_of, fill, parser_of, publish, table, within
from PIL import Image

from zsem.data.images import ImageSet
from zsem.data.pixels import from_uint8, grid, save_png, to_uint8
from zsem.evaluation.x0_over_steps import Noising, x0_over_steps
from zsem.models.imaging import STEPS

NAME, DRAWN, BATCH = "figure6", 3, 50
NOISINGS: dict[Noising, tuple[str, int]] = {
    "exact": ("each model's own trajectory of the face", 2),
    "fresh": ("the same fresh noise for both", 1),
}
"""What they are, and evaluations of a network that they take at every step."""
MODELS = {"autoencoder": "autoencoder, told z", "twin": "unconditional twin"}


def compare(faces: Faces, images: ImageSet, noising: Noising) -> dict[str, Any]:
    """Curves of both models, and of their difference image by image: below 0 where the autoencoder is nearer."""
    curves = {
        name: x0_over_steps(model, images, noising=noising, steps=STEPS, shown=0, batch_size=BATCH)
        for name, model in (("autoencoder", faces.autoencoder), ("twin", faces.twin))
    }
    means, intervals = curves["autoencoder"].minus(curves["twin"])
    difference = [{"mse": mean, **asdict(ends)} for mean, ends in zip(means, intervals, strict=True)]
    return {**{name: curve.summary() for name, curve in curves.items()}, "difference": difference}


def draw_curves(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Errors over log-SNR, a panel for every way into the noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (noising, curves) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        for name, says in MODELS.items():
            steps = curves[name]["steps"]
            x = [step["log_snr"] for step in steps]
            axes.plot(x, [step["mse"] for step in steps], marker="o", markersize=3, label=says)
            axes.fill_between(x, [step["low"] for step in steps], [step["high"] for step in steps], alpha=0.25)
        axes.set(xlabel="log-SNR (noise on the left)", yscale="log", title=NOISINGS[noising][0])
        axes.legend()
    figure.axes[0].set_ylabel("MSE of x0")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def draw_strips(faces: Faces, images: ImageSet, noising: Noising) -> Image.Image:
    """For the first faces, what both models expect at every step, and last the face itself."""
    some = images.subset(range(min(DRAWN, len(images))))
    strips = {
        name: x0_over_steps(model, some, noising=noising, steps=STEPS, shown=len(some)).strip
        for name, model in (("autoencoder", faces.autoencoder), ("twin", faces.twin))
    }
    rows = [
        to_uint8(torch.cat([strip[i], from_uint8(some.pixels[[i]])]))
        for i in range(len(some))
        for strip in strips.values()
    ]
    return grid(*rows, captions=list(strips) * len(some), scale=max(1, 64 // some.pixels.shape[-1]))


def tables(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table for every way into the noise: a row for each step, noisy first."""
    lines = []
    for noising, curves in found.items():
        steps = zip(curves["autoencoder"]["steps"], curves["twin"]["steps"], curves["difference"], strict=True)
        rows = [
            [
                f"{ours['timestep']:g}", f"{ours['log_snr']:.1f}", within(ours["mse"], ours, ".2e"),
                within(theirs["mse"], theirs, ".2e"), within(difference["mse"], difference, "+.2e"),
            ]
            for ours, theirs, difference in steps
        ]  # fmt: skip
        says = NOISINGS[noising][0]
        steps_of_it = table(["timestep", "log-SNR", *MODELS.values(), "difference"], rows)
        lines += ["", f"## {says[0].upper()}{says[1:]}", "", *steps_of_it]
    return lines


def verdict(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """In how many of the noisier half of the steps the autoencoder's error is below the twin's."""
    lines = []
    for noising, curves in found.items():
        half = curves["difference"][: (len(curves["difference"]) + 1) // 2]
        below, surely = (sum(step[key] < 0 for step in half) for key in ("mse", "high"))
        lines.append(
            f"- {NOISINGS[noising][0]}: the autoencoder's error is below the twin's at {below} of the {len(half)} "
            f"noisier steps, and the whole interval of the difference at {surely}."
        )
    return lines


def main() -> None:
    given = extent_of(parser_of(NAME, __doc__, number=1000, what="held-out faces"))
    faces = Faces(given)
    images = faces.held_out(given.number)
    cells = {
        noising: Cell(
            evaluations=2 * passes * STEPS * len(images),
            work=lambda noising=noising: compare(faces, images, noising),
        )
        for noising, (_, passes) in NOISINGS.items()
    }
    stamp = faces.stamp(faces.autoencoder, faces.twin, number=len(images), steps=STEPS)
    found = fill(given.out / "cells" / stamp, cells)
    draw_curves(found, given.out / "curves.png")
    save_png(draw_strips(faces, images, "fresh"), given.out / "strips.png")
    lines = [
        "# x0 over steps",
        f"Mean squared error of predicted x0 on [0, 1] over {len(images):,} held-out faces, with its 95 % bootstrap "
        "interval, and of the difference (autoencoder less twin) image by image.",
        "",
        *verdict(found),
        "",
        "![Errors over log-SNR](curves.png)",
        "![What both expect of the same x_t, from noisy to clean, and the face itself](strips.png)",
        *tables(found),
    ]
    publish(given.out, NAME, lines, found, quick=given.quick)


if __name__ == "__main__":
    main()
