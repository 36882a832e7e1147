"""Probes that were fitted to one kind of faces, judged on another kind, with nothing fitted anew.

    python -m experiments.transfer avatars-64 [--styles open-peeps toon-head] [--out runs/tables/transfer]

The paper's claim is that probes of FFHQ's codes serve CelebA-HQ; here they go from the avatars that the model was
trained on to faces of other artists (other lines, colours, proportions), of the same size and jitter. Beside z the same
probes on principal components of the pixels and on the pixels. Writes transfer.json, transfer.md and a picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from experiments.runs import AVATARS, DATA, images_of
from torch import Tensor

from zsem import api
from zsem.data import builtin
from zsem.data.images import ImageSet, load_images
from zsem.data.pixels import grid, save_png
from zsem.evaluation.attributes import HELD_OUT, LABELS, UNLABELLED, small_pixels
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.semantics.probes import ProbeFigures, pca_baseline, probe_attributes
from zsem.values.files import write_whole

SHOWN = 8


def faces(style: str, number: int, size: int) -> ImageSet:
    """Faces of another style with the jitter of those that models are trained on; all of them are held out."""
    settings = {**AVATARS, "style": style, "number": number, "size": size}
    return load_images(builtin.avatars(DATA / f"{style}-{number}-{size}", **settings), size=size)


def codes(model: DiffusionAutoencoder, sets: Mapping[str, ImageSet], unlabelled: ImageSet) -> dict[str, dict[str, Any]]:
    """By source, what probes see of every set; the first set is the one that they are fitted to."""
    z = {name: model.encode(images, noise=False, batch_size=64).z for name, images in sets.items()}
    mean, std = model.z_mean.cpu(), model.z_std.cpu()
    pixels = {name: small_pixels(images.pixels) for name, images in sets.items()}
    first, *others = sets
    more = small_pixels(unlabelled.pixels)
    components: dict[str, Any] = {}
    for name in others:
        components[first], components[name] = pca_baseline(
            pixels[first], pixels[name], z[first].shape[1], unlabelled=more, seed=0
        )
    return {"z": {name: (value - mean) / std for name, value in z.items()}, "pca": components, "pixels": pixels}


def judge(
    fitted: ImageSet, tested: ImageSet, train: Tensor | np.ndarray, test: Tensor | np.ndarray
) -> dict[str, ProbeFigures]:
    """AUROC of the attributes that both sets have."""
    names = [name for name in fitted.attributes if name in tested.attributes]
    attributes = [{name: part.attributes[name] for name in names} for part in (fitted, tested)]
    probes = probe_attributes(train, attributes[0], test, attributes[1], seed=0)
    return {name: figures for name, (_, figures) in probes.items()}


def table(report: Mapping[str, Any]) -> str:
    """Markdown: a row for each style and source."""
    names = list(dict.fromkeys(name for by in report["styles"].values() for row in by.values() for name in row))
    lines = [
        f"AUROC (95 % interval) of probes that were fitted to {report['labels']:,} training faces of the model's own "
        "style, with nothing fitted anew to the others:",
        "",
        f"| faces | n | source | {' | '.join(name.replace('_', ' ') for name in names)} | mean |",
        "|---" * (len(names) + 4) + "|",
    ]
    for style, sources in report["styles"].items():
        for source, row in sources.items():
            cells = [
                f"{row[name]['score']:.3f} ({row[name]['low']:.3f} - {row[name]['high']:.3f})" if name in row else ""
                for name in names
            ]
            mean = np.mean([figures["score"] for figures in row.values()])
            n = next(iter(row.values()))["n"]
            lines.append(f"| {style} | {n} | {source} | {' | '.join(cells)} | {mean:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run or the name of a packaged model, trained on avatars of the first style")
    parser.add_argument("--styles", nargs="+", default=["open-peeps", "toon-head"])
    parser.add_argument("--data", help="the faces that probes are fitted to; by default the model's own")
    parser.add_argument("--number", type=int, default=HELD_OUT, help="faces of every kind to judge on, at most")
    parser.add_argument("--labels", type=int, default=LABELS, help="labelled training faces")
    parser.add_argument("--out", type=Path, default=Path("runs/tables/transfer"))
    arguments = parser.parse_args()
    model = api.load(arguments.model, kind=DiffusionAutoencoder)
    size = model.config.image_size
    own = load_images(arguments.data or images_of("avatars-64", None), size=size)
    fitted = own.split("train").limit(arguments.labels)
    kind = str(AVATARS["style"])
    sets = {"fitted": fitted, kind: own.held_out().limit(arguments.number)}
    sets |= {style: faces(style, arguments.number, size) for style in arguments.styles}
    seen = codes(model, sets, own.split("train").limit(UNLABELLED))
    styles = {
        style: {source: {name: asdict(f) for name, f in judge(fitted, sets[style], by["fitted"], by[style]).items()}
                for source, by in seen.items()}
        for style in list(sets)[1:]
    }  # fmt: skip
    report = {"model": model.stamp, "labels": len(fitted), "styles": styles}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out / "transfer.json", (json.dumps(report, indent=2) + "\n").encode())
    write_whole(arguments.out / "transfer.md", table(report).encode())
    rows = [sets[style].limit(SHOWN).pixels for style in styles]
    save_png(grid(*rows, captions=list(styles)), arguments.out / "transfer.png")
    print(table(report))


if __name__ == "__main__":
    main()
