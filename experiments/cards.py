"""What a model that the package comes with says of itself: a card of figures, measured on the packaged weights.

    python -m experiments.cards avatars-64 [--judge runs/judges/avatars-64]     # writes README.md beside the weights

Held-out faces alone are judged, some minutes on one core. `experiments.models package` comes before.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.judge_z import Extent, judge_z
from experiments.models import recipes
from experiments.runs import images_of
from experiments.samples import REFERENCE, reference_of

from zsem import api
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8, to_uint8
from zsem.metrics.reconstruction import Reconstruction
from zsem.metrics.samples import judge_distribution
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import ASSETS, Model
from zsem.models.diffusion import DiffusionModel
from zsem.nets.features import load_efficientnet_lite0
from zsem.values.files import write_whole

RECONSTRUCTED, SAMPLED = 64, 1000
HEAD = """---
license: mit
library_name: zsem
tags: [diffusion, autoencoder, zsem]
---

# {name}

{says}. `zsem.load("{name}")` loads it, and nothing is downloaded.

| | |
|---|---|
| trained by | `{command}` |
| images | {train_images:,} avatars of 64 px with mild jitter, {images:,} seen in {iterations:,} iterations |
| time | {minutes:.0f} minutes on two cores of a server CPU |
| parameters | {parameters:.1f} millions, float16 in the file ({size:.1f} MB) |
| stamp | `{stamp}` |

The figures below are of the weights in this folder, on held-out faces: `python -m experiments.cards {name}`.
"""
FOOT = """
The faces are drawn with [DiceBear](https://www.dicebear.com), style *avataaars* by Pablo Stanley, free for personal and
commercial use. The model knows these cartoons and nothing else.
"""


def head(name: str, model: Model) -> str:
    """What the model is and how it came about."""
    history, folder = model.history, ASSETS / name
    return HEAD.format(
        name=name, says=recipes()[name].says.capitalize(), stamp=model.stamp,
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        size=(folder / "model.safetensors").stat().st_size / 1e6,
        **{key: history[key] for key in ("command", "train_images", "images", "iterations", "minutes")},
    )  # fmt: skip


def of_autoencoder(model: DiffusionAutoencoder, data: str, judge: Path) -> list[str]:
    """Exact codes, what z knows, and pictures from z alone."""
    images = load_images(data, size=model.config.image_size)
    held_out = images.held_out().limit(RECONSTRUCTED)
    counter = Reconstruction()
    decoded = model.decode(model.encode(held_out))
    counter.update(from_uint8(held_out.pixels), from_uint8(to_uint8(decoded)))
    exact = counter.compute()
    report = judge_z(model, data, images=images, judge=judge, extent=Extent(method="mean"))
    return [
        f"Encoding with 20 network evaluations and decoding with 19 gives {exact.identical:.0%} of the pixels of "
        f"{exact.n} faces back.",
        "",
        *probe_table(report["probes"]),
        "",
        f"Pictures from z alone, fresh noise: MSE {report['alone']['mse']:.4f} to the original; FD-EffLite0 of "
        f"{report['pictures']['n']} {report['pictures']['fd_efflite0']['z']:.0f}, of as many real faces "
        f"{report['pictures']['fd_efflite0']['real']:.0f}.",
    ]


def probe_table(probes: Mapping[str, Any]) -> list[str]:
    """AUROC by attribute."""
    names = list(probes["attributes"])
    lines = [
        f"AUROC of logistic probes, fitted to {probes['train']:,} faces and judged on {probes['held_out']:,} others:",
        "",
        f"| | {' | '.join(name.replace('_', ' ') for name in names)} | mean |",
        "|---" * (len(names) + 2) + "|",
    ]
    says = {"z": "z", "pca": "as many principal components of the pixels", "judge": "a supervised network"}
    for source, mean in probes["mean"].items():
        scores = [f"{probes['attributes'][name][source]['score']:.3f}" for name in names]
        lines.append(f"| {says[source]} | {' | '.join(scores)} | {mean:.3f} |")
    return lines


def of_samples(model: Any, data: str) -> list[str]:
    """The distribution of samples."""
    images, network = load_images(data, size=model.config.image_size), load_efficientnet_lite0()
    reference = reference_of(images, network)
    found = judge_distribution(reference, model.sample(SAMPLED).clamp(-1, 1).split(64))
    theirs = judge_distribution(reference, map(from_uint8, images.held_out().limit(SAMPLED).pixels.split(64)))
    how = " (UniPC-2, 20 steps)" if isinstance(model, DiffusionModel) else ""
    return [
        f"FD-EffLite0 of {SAMPLED:,} samples{how} to {REFERENCE:,} training faces: {found.frechet:.0f}; "
        f"of as many real held-out faces {theirs.frechet:.0f}. "
        f"Precision {found.precision:.3f}, recall {found.recall:.3f}."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--judge", type=Path, default=Path("runs/judges/avatars-64"), help="folder of the judge")
    arguments = parser.parse_args()
    name = arguments.name
    model, data = api.load(ASSETS / name), images_of(recipes()[name].data, None)
    if isinstance(model, DiffusionAutoencoder):
        figures = of_autoencoder(model, data, arguments.judge)
    else:
        figures = of_samples(model, data)
    text = "\n".join([head(name, model), *figures]) + "\n" + FOOT
    write_whole(ASSETS / name / "README.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
