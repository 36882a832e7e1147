"""Every command of zsem on one set of images, one after the other, on small trainings: none has a special case.

    python -m experiments.every_command [DATA] [--minutes 3] [--out runs/every-command]

DATA is a folder of class folders; by default the grey digits of `zsem data digits`. The autoencoder is trained for
--minutes at 32 px, all other models for a sixth of that: enough to see that the commands work, not for figures. A
command that fails stops the whole and says why. Left out are `data avatars`, whose faces have nothing to do with DATA,
and `align`, which is for photographs of faces. Writes every_command.json, the seconds of each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

from zsem.cli import COMMANDS
from zsem.cli import main as zsem
from zsem.data.images import load_images
from zsem.values.files import write_whole

ELSEWHERE = {"align", "data avatars"}
SIZE = 32


def commands(data: str, out: Path, minutes: float, preset: str) -> Iterator[list[str]]:
    """The words of all commands, in an order in which each finds what it needs."""
    images = load_images(data, size=SIZE)
    held_out = images.held_out()
    first, second = images.class_names[:2]
    one, other = (next(Path(data) / p for p in held_out.paths if f"/{name}/" in f"/{p}") for name in (first, second))
    run, diffusion, classifier = out / "autoencoder", out / "diffusion", out / "classifier"
    few, way = ["--limit", "16"], ["--steps", "5"]

    def words(*some: object) -> list[str]:
        return [str(word) for word in some]

    def train(kind: str, folder: Path, share: float, *more: str) -> list[str]:
        return words(
            "train", data, "--model", kind, "--preset", preset, "--minutes", minutes * share, "--out", folder, *more
        )

    yield words("data", "info", data)
    yield words("presets", "nano")
    yield train("autoencoder", run, 1)
    yield train("diffusion", diffusion, 1 / 6)
    yield train("diffusion", out / "conditional", 1 / 6, "--conditional")
    for kind in ("classifier", "vae", "gan"):
        yield train(kind, out / kind, 1 / 6)
    yield words("info", run)
    yield words("ema", run, "--sigma-rel", 0.05)
    yield words("encode", run, data, "--noise", *few, "--out", out / "codes.parquet")
    yield words("decode", run, out / "codes.parquet", "--out", out / "decoded")
    yield words("reconstruct", run, data, "--compare", *few, "--out", out / "reconstruct")
    yield words("vary", run, data, "--out", out / "vary")
    yield words("mix", run, one, other, "--out", out / "mix")
    yield words("interpolate", run, one, other, "--out", out / "strip.png")
    yield words("interpolate", run, one, other, "--out", out / "morph.gif")
    yield words("attributes", run, data, "--vae", out / "vae", "--judge", out / "judge", "--resamples", 100)
    yield words("directions", run, data, "--attribute", first)
    yield words("directions", run, data, "--method", "pca", "--components", 2, "--out", out / "pca")
    yield words(
        "edit", run, data, "--set", f"{first}=0.9", "--mask", "auto", "--full-size", *few, "--out", out / "edit"
    )
    yield words("prior", run, data)
    yield words("sample", run, "-n", 8, "--where", f"{first}=1", *way, "--out", out / "samples")
    yield words("sample", out / "conditional", "-n", 8, "--guidance-scale", 2, *way, "--out", out / "free-guided")
    guided = ["--classifier", classifier, "--classifier-scale", 2, "--classes", first]
    yield words("sample", diffusion, "-n", 8, *guided, *way, "--out", out / "guided")
    for kind in ("vae", "gan"):
        yield words("sample", out / kind, "-n", 8, "--out", out / f"{kind}-samples")
    examples = words("--positive", one.parent, "--negative", other.parent)
    yield words("fewshot", run, *examples, "-n", 8, *way)
    yield words("bench", "edit", run, data, "--number", 8, "--judge", out / "judge", "--out", out / "bench")
    yield words("evaluate", run, data, "--quick", "--out", out / "evaluate")
    yield words("hspace", "intervals", diffusion, data, *few, *way)
    mean = ["--space", "h", "--method", "mean", "--attribute", first, *few]
    yield words("directions", diffusion, data, *mean, "--out", out / "h")
    direction = f"{next(iter(sorted((out / 'h').glob('*.safetensors'))))}=1"
    yield words("edit", diffusion, data, "--direction", direction, *few, "--out", out / "h-edit")
    study = ["--quick", "--attributes", first, "--autoencoder", run, "--judge", out / "judge"]
    yield words("hspace", "study", diffusion, data, *study, "--out", out / "study")
    yield words("export", diffusion, "--out", out / "exported")
    yield words("import", out / "exported", "--out", out / "imported")


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
    took: list[tuple[str, float]] = []

    def run(words: list[str]) -> None:
        print("\n$ zsem", *words, flush=True)
        started = time.perf_counter()
        if code := zsem(words):
            raise SystemExit(code)
        took.append((" ".join(words), time.perf_counter() - started))

    data = arguments.data or str(out / "digits")
    if arguments.data is None:
        run(["data", "digits", "--size", str(SIZE), "--out", data])
    for words in commands(data, out, arguments.minutes, arguments.preset):
        run(words)
    never = {name for name in COMMANDS if not any(f"{line} ".startswith(f"{name} ") for line, _ in took)} - ELSEWHERE
    assert not never - ({"data digits"} if arguments.data else set()), f"not run: {never}"
    write_whole(out / "every_command.json", (json.dumps(dict(took), indent=2) + "\n").encode())
    print(f"\n{len(took)} commands on {data}, {sum(seconds for _, seconds in took):.0f} s")


if __name__ == "__main__":
    main()
