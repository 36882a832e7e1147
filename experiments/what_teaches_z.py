"""What teaches z? One change of the recipe at a time, all trained for the same processor time.

    python -m experiments.what_teaches_z train DATA --out DIR [--rows NAME ..] [--minutes 20] [--seed 0]
    python -m experiments.what_teaches_z judge DATA --out DIR [--rows NAME ..]
    python -m experiments.what_teaches_z table --out DIR

DATA: avatars (`zsem data avatars --number 12000 --size 64 --out DATA`). Every row is the preset `tiny`, its U-Net two
thirds as wide so that more images pass, with one change. Its iterations are what fits into the minutes of one core, by
processor times of all rows measured in turns and kept, with the learning rate's cosine. Runs resume where they stopped.
`judge` judges what is trained and not judged yet (`experiments.judge_z`, edits along mean differences).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from experiments.judge_z import Extent, judge_z, lines
from experiments.models import in_plain_v
from experiments.samples import at_precision

from zsem import api
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.training.presets import Preset, find_preset
from zsem.values.files import write_whole
from zsem.values.objective import Batch

TINY = in_plain_v(find_preset("tiny"))
UNET = replace(TINY.model.unet, channels=64, embed_channels=256)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One change of the recipe."""

    says: str
    objective: dict[str, Any] = field(default_factory=dict)
    unet: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def preset(self, seed: int) -> Preset:
        """The narrow `tiny` with this change."""
        model = replace(
            TINY.model, unet=replace(UNET, **self.unet), encoder=replace(TINY.model.encoder, **self.encoder)
        )
        return Preset(
            model=model,
            objective=replace(TINY.objective, **self.objective),
            training=replace(TINY.training, seed=seed, picture_minutes=1e9, **self.training),
        )


ROWS = {
    "v": Row(says="plain v loss, stratified timesteps"),
    "noisy": Row(says="half of the timesteps at log-SNR < -2", objective={"noisy_share": 0.5}),
    "blind": Row(
        says="a quarter of the timesteps at log-SNR < -6: x0 from z alone",
        objective={"noisy_share": 0.25, "noisy_log_snr": -6.0},
    ),
    "draws": Row(
        says="4 noise draws per encoder pass, of a quarter of the images",
        objective={"noise_draws": 4},
        training={"batch_size": 16},
    ),
    "pool1": Row(says="global average before the last layer, as in the paper", encoder={"pool": 1}),
    "wide": Row(says="encoder twice as wide", encoder={"channels": 64}),
    "dropout": Row(says="z dropped in a tenth of the predictions", objective={"z_dropout": 0.1}),
    "patch2": Row(says="U-Net on patches of 2 instead of 4", unet={"patch": 2, "channel_mult": (1, 2, 2)}),
    "simple": Row(says="L_simple", objective={"weighting": "simple"}),
    "min_snr": Row(says="min-SNR-5", objective={"weighting": "min_snr"}),
    "p2": Row(says="P2", objective={"weighting": "p2"}),
}


def iteration(preset: Preset) -> Callable[[], float]:
    """A function that passes one batch forward and backward and tells the processor seconds of one thread."""
    model = DiffusionAutoencoder(preset.model)
    objective = AutoencoderObjective(model, preset.objective)
    size, number = preset.model.image_size, preset.training.batch_size
    batch = Batch(
        images=torch.zeros(number, 3, size, size, dtype=torch.uint8),
        names=[(0, 0, position) for position in range(number)],
    )

    def timed() -> float:
        begun = time.process_time()
        with at_precision(torch.device("cpu")):
            (phase,) = objective.phases(batch, objective.networks)
        phase.loss.backward()
        return time.process_time() - begun

    return timed


def measure(out: Path, minutes: float, rounds: int = 5) -> dict[str, int]:
    """Iterations of every row, from the speeds of all rows taken in turns, so that what else runs hits all alike.

    Measured once and kept: rows that are trained later compare with those trained before.
    """
    path = out / "iterations.json"
    if not path.exists():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        timers = {name: iteration(row.preset(0)) for name, row in ROWS.items()}
        seconds = {name: min(timer() for _ in range(2)) for name, timer in timers.items()}
        for _ in range(rounds):
            seconds = {name: min(seconds[name], timer()) for name, timer in timers.items()}
        torch.set_num_threads(threads)
        about = {name: {"seconds": value, "iterations": round(60 * minutes / value)} for name, value in seconds.items()}
        write_whole(path, (json.dumps(about, indent=2) + "\n").encode())
    return {name: entry["iterations"] for name, entry in json.loads(path.read_text()).items()}


def train(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    iterations = measure(out, arguments.minutes)
    for name in arguments.rows:
        run = out / f"{name}-{arguments.seed}"
        api.train(
            arguments.data, run, preset=ROWS[name].preset(arguments.seed), iterations=iterations[name],
            resume=(run / "run.json").exists(), say=lambda line, name=name: print(f"{name}: {line}", flush=True),
        )  # fmt: skip


def judge(arguments: argparse.Namespace) -> None:
    out, images = Path(arguments.out), None
    iterations = json.loads((out / "iterations.json").read_text())
    for config in sorted(out.glob("*/config.json")):
        run = config.parent
        name, result = run.name.rpartition("-")[0], run.with_suffix(".judged")
        if name not in arguments.rows or result.exists():
            continue
        model = api.load(run, kind=DiffusionAutoencoder)
        if model.history["iterations"] < iterations[name]["iterations"]:
            continue
        images = images or load_images(arguments.data, size=TINY.model.image_size)
        report = judge_z(model, arguments.data, images=images, judge=out / "judge", extent=Extent(method="mean"))
        print(f"{run.name}:", *lines(report), sep="\n")
        about = {"row": name, "says": ROWS[name].says, "iterations": model.history["iterations"]}
        write_whole(result, (json.dumps({**about, **report}, indent=2) + "\n").encode())


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure of the table: how it is found in a report, shown, and whether more of it is better."""

    find: Callable[[dict[str, Any]], float]
    shown: str
    more: bool


def edited(report: dict[str, Any], figure: str) -> float:
    """A figure of edits; the error as a share of the unedited image's."""
    mean = report["edits"]["mean"]
    return mean["edited"]["hit"] if figure == "hit" else mean["edited"]["mse"] / mean["unedited"]["mse"]


JUDGED = {
    "AUROC of z": Column(find=lambda r: r["probes"]["mean"]["z"], shown=".3f", more=True),
    "edits seen": Column(find=lambda r: edited(r, "hit"), shown=".0%", more=True),
    "error of edits": Column(find=lambda r: edited(r, "mse"), shown=".2f", more=False),
    "error of z alone": Column(find=lambda r: r["alone"]["mse"], shown=".4f", more=False),
    "FD": Column(find=lambda r: r["pictures"]["fd_efflite0"]["z"], shown=".0f", more=False),
}
"""What a row's place is the mean rank of."""
ASIDE = {
    name: Column(find=lambda r, key=key: r["probes"]["attributes"][key]["z"]["score"], shown=".3f", more=True)
    for name, key in (("smile", "smile"), ("closed eyes", "eyes_closed"))
}
"""AUROC of the hardest attributes."""


def table(arguments: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(Path(arguments.out).glob("*.judged")):
        report = json.loads(path.read_text())
        found.setdefault(report["row"], []).append(report)

    def mean(row: str, column: Column) -> float:
        return sum(column.find(report) for report in found[row]) / len(found[row])

    places = dict.fromkeys(found, 0.0)
    for column in JUDGED.values():
        order = sorted(found, key=lambda row, c=column: mean(row, c), reverse=column.more)
        for place, row in enumerate(order, 1):
            places[row] += place / len(JUDGED)
    columns = {**JUDGED, **ASIDE}
    print(
        f"| change | seeds | iterations | {' | '.join(columns)} | mean rank |",
        "|---" * (4 + len(columns)) + "|",
        sep="\n",
    )
    for row in sorted(found, key=lambda row: places[row]):
        cells = []
        for column in columns.values():
            values = [format(column.find(report), column.shown) for report in found[row]]
            cells.append(", ".join(values))
        first = found[row][0]
        print(
            f"| {first['says']} | {len(found[row])} | {first['iterations']} | {' | '.join(cells)} "
            f"| {places[row]:.1f} |"
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.add_argument("data")
    command.add_argument("--out", required=True)
    command.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    command.add_argument("--minutes", type=float, default=20.0)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=train)
    command = commands.add_parser("judge")
    command.add_argument("data")
    command.add_argument("--out", required=True)
    command.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    command.set_defaults(run=judge)
    command = commands.add_parser("table")
    command.add_argument("--out", required=True)
    command.set_defaults(run=table)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
