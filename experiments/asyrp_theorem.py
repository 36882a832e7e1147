"""Theorem 1 of Asyrp in figures: what a step keeps of a change of eps, and what a random shift of h does to images.

    python -m experiments.asyrp_theorem --out runs/theorem [--model avatars-64-ddpm]

Writes theorem.png (1000 steps, linear betas 1e-4 .. 0.02, eta 0 and 1) and theorem.json: the sums over an edit interval
for several numbers of steps, and with a model the experiment for the same random shift at 1000 steps and at 40.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from zsem import api
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.hspace.figures import save_figure, theorem_figure
from zsem.hspace.theorem import cancellation, coefficients, published_levels
from zsem.models.imaging import ImageModel
from zsem.values.files import write_whole

T_EDIT = 513
STEPS = (1000, 100, 50, 40, 20, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/theorem"))
    parser.add_argument("--model", help="a run, to shift its h")
    parser.add_argument("--size", type=float, default=0.1, help="of the shift, in multiples of standard normal numbers")
    parser.add_argument("--number", type=int, default=2, help="images of the experiment")
    arguments = parser.parse_args()
    schedule = NoiseSchedule()
    grids = {n: TimeGrid.from_levels(schedule, t=published_levels(n), clean=True) for n in STEPS}
    figure = save_figure(theorem_figure(grids[1000]), arguments.out / "theorem.png")
    sums = {n: coefficients(grid).sums(T_EDIT) for n, grid in grids.items()}
    figures: dict[str, object] = {"sums": sums}
    for steps, (in_x0, in_both, ratio) in sums.items():
        print(f"{steps:5d} steps: in x0 {in_x0:7.2f}, in both {in_both:5.2f}, {ratio:6.1f} times")
    if arguments.model:
        model = api.load(arguments.model, kind=ImageModel)
        found = [cancellation(model, steps=n, size=arguments.size, number=arguments.number) for n in (1000, 40)]
        figures["experiment"] = [asdict(one) for one in found]
        for one in found:
            print(f"{one.steps:5d} steps: images change by {one.asymmetric:.4f} in x0, {one.symmetric:.4f} in both")
    write_whole(arguments.out / "theorem.json", (json.dumps(figures, indent=2) + "\n").encode())
    print(figure)


if __name__ == "__main__":
    main()
