"""How near directions in z come to the truth that avatars have: how z shifts when one attribute of a face is flipped.

    zsem data avatars --number 20000 --size 64 --out runs/data/avatars-64-20k
    python -m experiments.true_directions avatars-64 runs/data/avatars-64-20k [--number 200] [--json FILE]

Codes are normalised. `own`: mean cosine of each face's own shift with the mean of all, which is how well any one
direction can do. For every method, the cosine of its direction with that mean, and how far along it the steps go that
take codes to a probe's probability of .9 (or .1), and those of an edit that asks for as much, as shares of its length.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from zsem import api
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8
from zsem.evaluation.bench_edit import semantics_of
from zsem.evaluation.flipping import HIGH, LOW, counterfactuals
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.semantics.attributes import Method, Semantics
from zsem.values.files import write_whole


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def compared(semantics: Semantics, name: str, z: torch.Tensor, truth: torch.Tensor, labels: np.ndarray) -> Any:
    """The figures of one attribute: codes of faces, of the same faces with it flipped, and which had it."""
    sign = np.where(labels > 0.5, -1.0, 1.0)[:, None]
    shifts = (semantics.normalised(truth) - semantics.normalised(z)) * sign
    mean = shifts.mean(axis=0)
    found: dict[str, Any] = {"n": len(z), "own": float(np.mean([cosine(shift, mean) for shift in shifts]))}
    for method in get_args(Method):
        found[method] = {"cosine": cosine(semantics.direction(name, method).vector.double().numpy(), mean)}
        for key, exact in (("probe", True), ("edit", False)):
            steps = np.empty_like(shifts)
            for asked, rows in ((HIGH, labels < 0.5), (LOW, labels > 0.5)):
                if rows.any():
                    moved = semantics.move(z[rows], {name: asked}, method=method, exact=exact, quiet=True)
                    steps[rows] = semantics.normalised(moved) - semantics.normalised(z[rows])
            found[method][key] = float((steps * sign).mean(axis=0) @ mean / (mean @ mean))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--labels", type=int, default=1000, help="labelled training images")
    parser.add_argument("--number", type=int, default=200, help="held-out faces")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    model = api.load(arguments.run, kind=DiffusionAutoencoder)
    images = load_images(arguments.data, size=model.config.image_size, channels=model.config.image_channels)
    semantics, faces = semantics_of(model, images, arguments.labels), images.held_out().limit(arguments.number)
    z = model.encode(faces, noise=False, batch_size=64).z
    report = {}
    print("| attribute | n | own | " + " | ".join(f"{m}: cosine, to .9, edit" for m in get_args(Method)) + " |")
    print("|---" * (3 + len(get_args(Method))) + "|")
    for name in (n for n, a in semantics.attributes.items() if a.binary):
        flipped = counterfactuals(Path(arguments.data), faces, name)
        if not flipped:
            continue
        rows = list(flipped)
        truth = model.encode(from_uint8(torch.stack(list(flipped.values()))), noise=False, batch_size=64).z
        one = report[name] = compared(semantics, name, z[rows], truth, faces.attributes[name][rows])
        cells = [" ".join(f"{one[m][key]:.2f}" for key in ("cosine", "probe", "edit")) for m in get_args(Method)]
        print(f"| {name} | {one['n']} | {one['own']:.2f} | " + " | ".join(cells) + " |", flush=True)
    if arguments.json:
        write_whole(arguments.json, (json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
