"""Every command of zsem on one set of images, one after the other: no kind of images needs a command of its own.

    python -m experiments.every_command [DATA] [--minutes 3] [--out runs/every-command]

DATA is a folder of class folders; by default the grey digits of `zsem data digits`. The autoencoder is trained for
--minutes, the other models that `zsem train` knows for a sixth of that; judges, prior and f_t take their own time. That
is enough to see that the commands work, and not for figures. A command that fails stops the whole and says why. Left
out are `data avatars`, whose faces have nothing to do with DATA, and `align`, which is for photographs of faces. Writes
every_command.json, the seconds of each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

from zsem.cli import COMMANDS
from zsem.cli import main as zsem
from zsem.data import builtin
from zsem.data.images import ImageSet, load_images
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

ELSEWHERE = {"align", "data avatars"}
SIZE = 32
SHORT = 0.01
"""Minutes by which a training may end early: its time is kept with two decimals."""


def commands(images: ImageSet, out: Path, minutes: float, preset: str) -> list[list[str]]:
    """The words of all commands, in an order in which each finds what it needs.

    Raises ZsemError where the images lack two classes with held-out images.
    """
    data, held_out = images.source, images.held_out()
    seen = [images.class_names[row] for row in held_out.classes.tolist() if row >= 0]
    if len(set(seen)) < 2:
        raise ZsemError(f"{data} must be a folder with two classes or more, each with held-out images")
    first, known = images.class_names[:2]  # of two classes the second alone is an attribute
    one, other = (Path(data) / held_out.paths[seen.index(name)] for name in (first, known))
    run, diffusion = out / "autoencoder", out / "diffusion"
    few, way = ["--limit", 16], ["--steps", 5]

    def train(kind: str, folder: Path, share: float, *more: str) -> list[object]:
        settings = ["--model", kind, "--preset", preset, "--minutes", minutes * share]
        return ["train", data, *settings, "--out", folder, *more]

    request = ["--set", f"{known}=0.9", "--mask", "auto", "--full-size"]
    guided = ["--classifier", out / "classifier", "--classifier-scale", 2, "--classes", first]
    examples = ["--positive", one.parent, "--negative", other.parent]
    mean = ["--space", "h", "--method", "mean", "--attribute", known]
    direction = f"{out / 'h' / known}-mean.safetensors=1"
    study = ["--quick", "--attributes", known, "--autoencoder", run, "--judge", out / "judge"]
    every: list[list[object]] = [
        ["data", "digits", "--out", out / "digits"],
        ["data", "info", data],
        ["presets", preset],
        train("autoencoder", run, 1),
        train("diffusion", diffusion, 1 / 6),
        train("diffusion", out / "conditional", 1 / 6, "--conditional"),
        train("diffusion", out / "plain", 1 / 6, "--model.unet.patch", "1"),  # diffusers has no networks of patches
        *(train(kind, out / kind, 1 / 6) for kind in ("classifier", "vae", "gan")),
        ["info", run],
        ["ema", run, "--sigma-rel", 0.05],
        ["encode", run, data, "--noise", *few, "--out", out / "codes.parquet"],
        ["decode", run, out / "codes.parquet", "--out", out / "decoded"],
        ["reconstruct", run, data, "--compare", *few, "--out", out / "reconstruct"],
        ["vary", run, data, "--out", out / "vary"],
        ["mix", run, one, other, "--out", out / "mix"],
        ["interpolate", run, one, other, "--out", out / "strip.png"],
        ["interpolate", run, one, other, "--out", out / "morph.gif"],
        ["attributes", run, data, "--vae", out / "vae", "--judge", out / "judge", "--resamples", 100],
        ["directions", run, data, "--attribute", known],
        ["directions", run, data, "--method", "pca", "--components", 2, "--out", out / "pca"],
        ["edit", run, data, *request, *few, "--out", out / "edit"],
        ["prior", run, data],
        ["sample", run, "-n", 8, "--where", f"{known}=1", *way, "--out", out / "samples"],
        ["sample", out / "conditional", "-n", 8, "--guidance-scale", 2, *way, "--out", out / "free-guided"],
        ["sample", diffusion, "-n", 8, *guided, *way, "--out", out / "guided"],
        *(["sample", out / kind, "-n", 8, "--out", out / f"{kind}-samples"] for kind in ("vae", "gan")),
        ["fewshot", run, *examples, "-n", 8, *way],
        ["bench", "edit", run, data, "--number", 8, "--judge", out / "judge", "--out", out / "bench"],
        ["evaluate", run, data, "--quick", "--out", out / "evaluate"],
        ["hspace", "intervals", diffusion, data, *few, *way],
        ["directions", diffusion, data, *mean, *few, "--out", out / "h"],
        ["edit", diffusion, data, "--direction", direction, *few, "--out", out / "h-edit"],
        ["hspace", "study", diffusion, data, *study, "--out", out / "study"],
        ["export", out / "plain", "--out", out / "exported"],
        ["import", out / "exported", "--out", out / "imported"],
    ]
    return [[str(word) for word in words] for words in every]


def never_run(every: Iterable[list[str]]) -> set[str]:
    """Commands of zsem that are not among them and should be."""
    named = {name for name in COMMANDS for words in every if words[: len(name.split())] == name.split()}
    return set(COMMANDS) - named - ELSEWHERE


def run(*some: object) -> float:
    """Run one command of these words; its seconds. SystemExit: it failed, and has said why, or was stopped training."""
    words = [str(word) for word in some]
    print("\n$ zsem", *words, flush=True)
    started = time.perf_counter()
    if code := zsem(words):
        raise SystemExit(code)
    if words[0] == "train":  # Ctrl-C ends one orderly, and the next command would begin
        folder, minutes = (words[words.index(option) + 1] for option in ("--out", "--minutes"))
        if json.loads((Path(folder) / "config.json").read_text())["history"]["minutes"] < float(minutes) - SHORT:
            raise SystemExit("the training was stopped")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="default: the grey digits")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training the autoencoder; default 3")
    parser.add_argument("--preset", default="nano", help="of all trainings; default nano")
    parser.add_argument("--out", type=Path, default=Path("runs/every-command"), help="a new folder")
    arguments = parser.parse_args()
    out = arguments.out
    if out.exists():
        parser.error(f"{out} is there already: name another folder, or remove it")
    data = arguments.data or builtin.digits(out / "digits", size=SIZE)
    every = commands(load_images(data, size=SIZE), out, arguments.minutes, arguments.preset)
    took = [run(*words) for words in every]
    lines = {" ".join(words): seconds for words, seconds in zip(every, took, strict=True)}
    write_whole(out / "every_command.json", (json.dumps(lines, indent=2) + "\n").encode())
    print(f"\n{len(every)} commands on {data}, {sum(took):.0f} s")


if __name__ == "__main__":
    main()
