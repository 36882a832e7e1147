"""The defaults of edits, chosen by their error to true counterfactuals.

    zsem data avatars --number 12000 --size 64 --out runs/data/avatars-64
    python -m experiments.edit_defaults RUN runs/data/avatars-64 --judge runs/judges/avatars-64 --json FILE --sheet FILE

RUN is a folder of a trained DiffusionAutoencoder, DATA a folder made by `zsem data avatars`. An attribute of held-out
faces is flipped as `zsem edit` does, by a request of .9 or .1 (or along the mean difference of the two kinds), and
decoded with every setting of a small grid; `beyond` is the argument of `Semantics.move`. `error` is the mean squared
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
from dataclasses import dataclass
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
from zsem.semantics.attributes import BEYOND, TYPICAL, Semantics, learn
from zsem.semantics.edits import edit, find_mask
from zsem.values.codes import Codes
from zsem.values.files import write_whole

LAST = 1000.0  # a timestep beyond all


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an edit is decoded."""

    scale: float
    beyond: float = BEYOND
    rescale: float = 0.0
    interval: Interval | None = None
    mask: bool = False

    def __str__(self) -> str:
        since = "all t" if self.interval is None else f"t >= {self.interval[0]:g}"
        masked = ", masked" if self.mask else ""
        return f"beyond {self.beyond:g}, scale {self.scale:g}, rescale {self.rescale:g}, {since}{masked}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attribute of several faces: their codes, the new ones, the truth, and where the edit wants to change them."""

    name: str
    codes: Codes
    new: dict[float, Tensor]
    target: Tensor
    truth: Tensor
    masks: dict[float, Tensor]

    @staticmethod
    def of(
        run: Run, codes: Codes, name: str, semantics: Semantics | None, beyond: Sequence[float], *, masked: bool
    ) -> Case:
        """semantics: to move codes with; without them along the mean difference, whatever is said of `beyond`."""
        target = run.target(name, len(codes))
        truth = [
            builtin.counterfactual(run.folder, int(Path(path).stem), name, bool(value))
            for path, value in zip(run.held_out.paths[: len(codes)], target, strict=True)
        ]
        new = {}
        for share in beyond:
            if semantics is None:
                new[share] = run.moved(codes, run.mean_difference(name)).z
            else:
                asked = [{name: probability} for probability in (1 - TYPICAL, TYPICAL)]
                away, towards = (semantics.move(codes.z, one, beyond=share, quiet=True) for one in asked)
                new[share] = torch.where(target[:, None] == 1, towards, away)
        return Case(
            name=name, codes=codes, new=new, target=target, truth=torch.stack(truth),
            masks={share: find_mask(run.model, codes, z) for share, z in new.items()} if masked else {},
        )  # fmt: skip

    def decode(self, model: DiffusionAutoencoder, setting: Setting) -> Tensor:
        """uint8 pictures of the edit."""
        mask = self.masks[setting.beyond] if setting.mask else None
        return to_uint8(
            edit(
                model, self.codes, self.new[setting.beyond], scale=setting.scale, rescale=setting.rescale,
                interval=setting.interval, mask=mask,
            )
        )  # fmt: skip


def settings(
    beyond: Sequence[float],
    scales: Sequence[float],
    rescales: Sequence[float],
    since: Sequence[float],
    masks: Sequence[str],
) -> list[Setting]:
    """All combinations; `since` 0 stands for all timesteps."""
    return [
        Setting(
            beyond=share, scale=scale, rescale=rescale, interval=(first, LAST) if first else None, mask=mask == "auto"
        )
        for mask, share, scale, rescale, first in itertools.product(masks, beyond, scales, rescales, since)
    ]


def judged(judge: Judge | None, before: Tensor, case: Case, pixels: Tensor) -> dict[str, float]:
    """One attribute under one setting."""
    row = {"error": mean_square(pixels, case.truth) / mean_square(before, case.truth)}
    if judge is not None:
        result = judge_edit(judge, before, case.name, Edited(target=case.target, pixels=pixels, truth=case.truth))
        row["target"] = result["edited"]["target"] / result["truth"]["target"]
        row["leak"], row["hit"] = result["edited"]["leak"], result["edited"]["hit"]
    return row


def region(case: Case, before: Tensor, masks: Tensor) -> dict[str, float]:
    """How much of what truly changes lies within the automatic mask, and how large both are."""
    true = (case.truth.int() - before.int()).abs().amax(dim=1) > 0
    inside = masks > 0
    caught = (true & inside).sum() / true.sum()
    return {"caught": float(caught), "mask": float(inside.float().mean()), "truth": float(true.float().mean())}


def choose(
    run: Run, semantics: Semantics | None, judge: Judge | None, all_settings: Sequence[Setting], edited: Sequence[str],
    sheet: Path | None,
) -> Any:  # fmt: skip
    """The table; a picture of the best setting of either kind of mask."""
    before = run.held_out.pixels[: run.extent.edited]
    codes = run.model.encode(run.held_out.subset(range(len(before))))
    shares = list(dict.fromkeys(setting.beyond for setting in all_settings))
    masked = any(setting.mask for setting in all_settings)
    cases = [Case.of(run, codes, name, semantics, shares, masked=masked) for name in edited]
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
    return {
        "regions": {
            f"{case.name}, beyond {share:g}": region(case, before, masks)
            for case in cases
            for share, masks in case.masks.items()
        },
        "rows": rows,
    }


def draw(before: Tensor, cases: Sequence[Case], pictures: dict[Setting, list[Tensor]], path: Path) -> None:
    """Originals, and for every attribute the truth, the edits and the mask."""
    rows, captions = [before[:8]], ["original"]
    for i, case in enumerate(cases):
        rows.append(case.truth[:8])
        rows += [pixels[i][:8] for pixels in pictures.values()]
        rows += [(masks[:8, None] * 255).to(torch.uint8) for masks in case.masks.values()]
        captions += [
            f"{case.name}: truth",
            *("masked" if s.mask else str(s) for s in pictures),
            *(f"mask, beyond {share:g}" for share in case.masks),
        ]
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
    parser.add_argument("--beyond", type=float, nargs="+", default=[0.0, BEYOND, 1.0], metavar="SHARE")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--rescales", type=float, nargs="+", default=[0.5])
    parser.add_argument("--since", type=float, nargs="+", default=[100.0], help="first timesteps; 0 = all")
    parser.add_argument("--masks", nargs="+", default=["none", "auto"], choices=["none", "auto"])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--sheet", type=Path, help="a PNG file for the best setting")
    arguments = parser.parse_args()
    model = api.load(arguments.run, kind=DiffusionAutoencoder)
    images = load_images(arguments.data, size=model.config.image_size, channels=model.config.image_channels)
    begin = time.process_time()
    run = Run(model, Path(arguments.data), images, Extent(number=arguments.train, edited=arguments.number))
    judge = None if arguments.judge is None else api.load(arguments.judge, kind=Judge)
    shares = arguments.beyond if arguments.direction == "edit" else [0.0]  # the mean difference is one step
    grid_of = settings(shares, arguments.scales, arguments.rescales, arguments.since, arguments.masks)
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
