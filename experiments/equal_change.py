"""Leakage of our directions and of the paper's where both change an attribute equally, as an independent judge sees it.

    python -m experiments.equal_change avatars-64 runs/data/avatars-64-20k --judge runs/judges/avatars-64-20k

`zsem bench edit` moves along every direction by the same rule, and the paper's then changes pictures less. Here its
steps are lengthened (or shortened) by one factor for all images, found by bisection, until the mean change of the
target's probability is that of the default direction. Leakage is the change of all other attributes' probabilities over
that of the target's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from zsem import api
from zsem.data.images import load_images
from zsem.evaluation.bench_edit import DEFAULT, PAPER, BenchOptions, EditBench, semantics_of
from zsem.evaluation.flipping import Measured
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.judge import Judge
from zsem.training.judging import binary_attributes
from zsem.values.files import write_whole

LONGEST, HALVINGS = 16.0, 6
EQUAL = 0.01
"""Mean probabilities that differ by less are equal: near 1 a little more takes very long steps."""


def equal(bench: EditBench, name: str) -> dict[str, Any]:
    """The figures of one attribute."""
    flips = bench.flips(name)
    codes = bench.codes[torch.tensor(flips.rows)]

    def measured(method: str, factor: float) -> Measured:
        moved = bench.moved(codes.z, name, flips.requested, method)
        z = codes.z + factor * (moved - codes.z)
        return bench.measure(flips, lambda rows: bench.decode(codes[rows], z[rows], method))

    ours = measured(DEFAULT, 1.0)
    low, high = 1 / LONGEST, LONGEST
    for _ in range(HALVINGS):
        factor = (low * high) ** 0.5
        theirs = measured(PAPER, factor)
        weaker = theirs.figures.change < ours.figures.change - EQUAL
        low, high = (factor, high) if weaker else (low, factor)
    sides = {DEFAULT: ours.figures, PAPER: theirs.figures}
    found = {side: {"change": f.change, "leakage": f.leakage, "error": f.error} for side, f in sides.items()}
    return {"n": len(flips), "factor": factor, "unedited": ours.figures.unedited, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--judge", required=True, help="folder of a trained judge")
    parser.add_argument("--number", type=int, default=50, help="held-out images")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    model = api.load(arguments.run, kind=DiffusionAutoencoder)
    size, channels = model.config.image_size, model.config.image_channels
    images = binary_attributes(load_images(arguments.data, size=size, channels=channels))
    semantics, judge = semantics_of(model, images, 1000), api.load(arguments.judge, kind=Judge)
    bench = EditBench(model, images, semantics, judge, BenchOptions(number=arguments.number))
    report: dict[str, Any] = {}
    print("| attribute | n | change, ours and theirs | leakage, ours | leakage, theirs | their factor |")
    print("|---|---|---|---|---|---|")
    for name in bench.names:
        one = report[name] = equal(bench, name)
        ours, theirs = one[DEFAULT], one[PAPER]
        print(
            f"| {name} | {one['n']} | {ours['change']:.2f}, {theirs['change']:.2f} | {ours['leakage']:.3f} "
            f"| {theirs['leakage']:.3f} | {one['factor']:.2f} |",
            flush=True,
        )  # fmt: skip
    if arguments.json:
        write_whole(arguments.json, (json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
