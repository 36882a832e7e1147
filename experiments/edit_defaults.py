"""The defaults of edits, chosen by their error to true counterfactuals.

    zsem data avatars --number 12000 --size 64 --out runs/data/avatars-64
    python -m experiments.edit_defaults RUN runs/data/avatars-64 --judge runs/judges/avatars-64 --json FILE --sheet FILE

RUN is a folder of a trained DiffusionAutoencoder, DATA a folder made by `zsem data avatars`. Held-out faces are moved
along the mean difference of an attribute to where faces of the other kind are on average, and decoded with every
setting of a small grid; the best settings are decoded again within the automatic mask. `error` is the mean squared
error to the true counterfactual as a share of that of the unedited image (below 1: the edit is better than none), a
mean over attributes; with a judge, `target` is the change of its logit of the attribute as a share of the true
counterfactual's, `leak` the mean change of its other logits, and `hit` the share of images that it sees changed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments.judge_z import EDITED, Edited, Extent, Run, judge_edit, mean_square
from torch import Tensor

from zsem import api
from zsem.data import builtin
from zsem.data.images import load_images
from zsem.data.pixels import grid, save_png, to_uint8
from zsem.diffusion.guidance import Interval
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.judge import Judge
from zsem.semantics.attributes import Semantics, learn
from zsem.semantics.edits import edit, find_mask
from zsem.values.codes import Codes
from zsem.values.files import write_whole

LAST = 1000.0  # a timestep beyond all
GOAL = 0.95  # probability of the attribute that is asked for


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an edit is decoded."""

    scale: float
    rescale: float = 0.0
    interval: Interval | None = None
    mask: bool = False

    def __str__(self) -> str:
        since = "all t" if self.interval is None else f"t >= {self.interval[0]:g}"
        return f"scale {self.scale:g}, rescale {self.rescale:g}, {since}{', masked' if self.mask else ''}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attribute of several faces: their codes, the new ones, the truth, and where the edit wants to change them."""

    name: str
    codes: Codes
    new: Codes
    target: Tensor
    truth: Tensor
    masks: Tensor

    @staticmethod
    def of(run: Run, codes: Codes, name: str, semantics: Semantics | None) -> Case:
        """semantics: to move codes with; without them along the mean difference."""
        target = run.target(name, len(codes))
        truth = [
            builtin.counterfactual(run.folder, int(Path(path).stem), name, bool(value))
            for path, value in zip(run.held_out.paths[: len(codes)], target, strict=True)
        ]
        if semantics is None:
            new = run.moved(codes, run.mean_difference(name))
        else:
            away, towards = (semantics.move(codes.z, {name: goal}, exact=True) for goal in (1 - GOAL, GOAL))
            new = replace(codes, z=torch.where(target[:, None] == 1, towards, away))
        return Case(
            name=name, codes=codes, new=new, target=target, truth=torch.stack(truth),
            masks=find_mask(run.model, codes, new.z),
        )  # fmt: skip

    def decode(self, model: DiffusionAutoencoder, setting: Setting) -> Tensor:
        """uint8 pictures of the edit."""
        mask = self.masks if setting.mask else None
        return to_uint8(
            edit(
                model, self.codes, self.new.z, scale=setting.scale, rescale=setting.rescale,
                interval=setting.interval, mask=mask,
            )
        )  # fmt: skip


def settings(
    scales: Sequence[float], rescales: Sequence[float], since: Sequence[float], masks: Sequence[str]
) -> list[Setting]:
    """All combinations; `since` 0 stands for all timesteps."""
    return [
        Setting(scale=scale, rescale=rescale, interval=(first, LAST) if first else None, mask=mask == "auto")
        for mask, scale, rescale, first in itertools.product(masks, scales, rescales, since)
    ]


def judged(judge: Judge | None, before: Tensor, case: Case, pixels: Tensor) -> dict[str, float]:
    """One attribute under one setting."""
    row = {"error": mean_square(pixels, case.truth) / mean_square(before, case.truth)}
    if judge is not None:
        result = judge_edit(judge, before, case.name, Edited(target=case.target, pixels=pixels, truth=case.truth))
        row["target"] = result["edited"]["target"] / result["truth"]["target"]
        row["leak"], row["hit"] = result["edited"]["leak"], result["edited"]["hit"]
    return row


def region(case: Case, before: Tensor) -> dict[str, float]:
    """How much of what truly changes lies within the automatic mask, and how large both are."""
    true = (case.truth.int() - before.int()).abs().amax(dim=1) > 0
    inside = case.masks > 0
    caught = (true & inside).sum() / true.sum()
    return {"caught": float(caught), "mask": float(inside.float().mean()), "truth": float(true.float().mean())}


def choose(
    run: Run, semantics: Semantics | None, judge: Judge | None, all_settings: Sequence[Setting], edited: Sequence[str],
    sheet: Path | None,
) -> Any:  # fmt: skip
    """The table; a picture of the best setting of either kind of mask."""
    before = run.held_out.pixels[: run.extent.edited]
    codes = run.model.encode(run.held_out.subset(range(len(before))))
    cases = [Case.of(run, codes, name, semantics) for name in edited]
    rows: list[dict[str, Any]] = []
    pictures: dict[Setting, list[Tensor]] = {}

    best: dict[bool, tuple[float, Setting]] = {}
    for setting in all_settings:
        pictures[setting] = [case.decode(run.model, setting) for case in cases]
        attributes = {
            case.name: judged(judge, before, case, pixels)
            for case, pixels in zip(cases, pictures[setting], strict=True)
        }
        keys = next(iter(attributes.values()))
        mean = {key: float(np.mean([row[key] for row in attributes.values()])) for key in keys}
        rows.append({"setting": str(setting), **mean, "attributes": attributes})
        print(rows[-1]["setting"], {key: round(value, 3) for key, value in mean.items()}, flush=True)
        if setting.mask not in best or mean["error"] < best[setting.mask][0]:
            best[setting.mask] = mean["error"], setting
    if sheet is not None:
        draw(before, cases, {setting: pictures[setting] for _, setting in best.values()}, sheet)
    return {"regions": {case.name: region(case, before) for case in cases}, "rows": rows}


def draw(before: Tensor, cases: Sequence[Case], pictures: dict[Setting, list[Tensor]], path: Path) -> None:
    """Originals, and for every attribute the truth, the edits and the mask."""
    rows, captions = [before[:8]], ["original"]
    for i, case in enumerate(cases):
        rows.append(case.truth[:8])
        rows += [pixels[i][:8] for pixels in pictures.values()]
        rows.append((case.masks[:8, None] * 255).to(torch.uint8))
        captions += [f"{case.name}: truth", *("masked" if s.mask else str(s) for s in pictures), "mask"]
    save_png(grid(*rows, captions=captions), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--judge", type=Path, help="folder of a trained judge")
    parser.add_argument("--number", type=int, default=16, help="held-out faces")
    parser.add_argument("--edited", nargs="+", default=EDITED, metavar="ATTRIBUTE", help="attributes to edit")
    parser.add_argument("--direction", choices=["edit", "mean"], default="edit", help="how codes are moved")
    parser.add_argument("--train", type=int, default=4000, help="training images for the direction")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.5, 2.0, 3.0, 4.0])
    parser.add_argument("--rescales", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--since", type=float, nargs="+", default=[0.0, 100.0], help="first timesteps; 0 = all")
    parser.add_argument("--masks", nargs="+", default=["none", "auto"], choices=["none", "auto"])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--sheet", type=Path, help="a PNG file for the best setting")
    arguments = parser.parse_args()
    model = api.load(arguments.run, kind=DiffusionAutoencoder)
    images = load_images(arguments.data, size=model.config.image_size, channels=model.config.image_channels)
    begin = time.process_time()
    run = Run(model, Path(arguments.data), images, Extent(number=arguments.train, edited=arguments.number))
    judge = None if arguments.judge is None else api.load(arguments.judge, kind=Judge)
    grid_of = settings(arguments.scales, arguments.rescales, arguments.since, arguments.masks)
    semantics = None if arguments.direction == "mean" else learn(run.z_train, run.train.attributes, model)
    report = choose(run, semantics, judge, grid_of, arguments.edited, arguments.sheet)
    report["seconds"] = time.process_time() - begin
    for name, figures in report["regions"].items():
        print(name, {key: round(value, 3) for key, value in figures.items()})
    print(f"{report['seconds']:.0f} processor seconds")
    if arguments.json:
        write_whole(arguments.json, (json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
