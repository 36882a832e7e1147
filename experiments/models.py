"""The models that tables and figures are made with: one resumable command trains them.

    python -m experiments.models cost [NAME ..] [--cifar10 FILE]       # what each takes on this machine
    python -m experiments.models train [NAME ..] [--cifar10 FILE]      # the same table first, then the trainings
    python -m experiments.models package NAME                          # into the package, weights in float16

Without names all are meant. FILE: CIFAR-10 as a folder or archive of class folders below train and test. A run lies in
runs/models/NAME-HASH, where the hash is of all its settings: a changed recipe is a new run, an equal one goes on.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsem import api
from zsem.data import builtin
from zsem.data.images import ImageSet
from zsem.models.base import ASSETS, Model
from zsem.models.judge import Judge
from zsem.training.images import ImageOptions
from zsem.training.judging import judge_for
from zsem.training.log import clock
from zsem.training.presets import Preset, find_preset, preset_settings
from zsem.values.errors import ZsemError

RUNS, DATA = Path("runs/models"), Path("runs/data")
AVATARS = {"number": 12_000, "size": 64, "style": "avataaars", "jitter": "mild", "seed": 0}
CIFAR10 = "cifar10"  # the one set that is not made here


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model to train: what it is for, on what, how, and on how many images, repeats counted."""

    says: str
    data: str
    preset: Preset
    images: int
    conditional: bool = False

    @property
    def iterations(self) -> int:
        return self.images // self.preset.training.batch_size

    def run(self, name: str) -> Path:
        """The folder of its run, which all settings have a part in."""
        about = {**preset_settings(self.preset), "images": self.images, "conditional": self.conditional}
        about["data"] = AVATARS if self.data == "avatars-64" else self.data
        return RUNS / f"{name}-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]}"


@functools.cache
def recipes() -> dict[str, Recipe]:
    """All models, by name, in the order in which they are trained."""
    tiny = find_preset("tiny")
    nano, classifier = find_preset("nano", "diffusion"), find_preset("nano", "classifier")
    twin = replace(find_preset("tiny", "diffusion"), training=tiny.training)
    # as many parameters as the autoencoder's encoder and decoder have together: 12.4 and 12.2 millions
    twin_unet = replace(tiny.model.unet, channels=104, embed_channels=448)
    avatars, photos = "avatars-64", CIFAR10
    return {
        "avatars-64": Recipe(says="the autoencoder that zsem comes with", data=avatars, preset=tiny, images=400_000),
        "avatars-64-ddpm": Recipe(
            says="its unconditional twin: equal parameters, equal images seen", data=avatars, images=400_000,
            preset=replace(twin, model=replace(twin.model, unet=twin_unet)),
        ),
        "avatars-64-vae": Recipe(
            says="a VAE with a code of the same length", data=avatars, preset=find_preset("tiny", "vae"), images=200_000
        ),
        "cifar10-ddpm": Recipe(
            says="class-conditional, a tenth of the classes dropped", data=photos, preset=nano, images=900_000,
            conditional=True,
        ),
        "cifar10-classifier": Recipe(
            says="of noisy images, for guidance", data=photos, preset=classifier, images=300_000
        ),
        "cifar10-vae": Recipe(says="a VAE", data=photos, preset=find_preset("nano", "vae"), images=200_000),
        "cifar10-gan": Recipe(says="a GAN", data=photos, preset=find_preset("nano", "gan"), images=300_000),
    }  # fmt: skip


def images_of(data: str, cifar10: str | None) -> str:
    """The path of a recipe's images, which are rendered where that can be done."""
    if data != CIFAR10:
        return str(builtin.avatars(DATA / data, **AVATARS))
    if cifar10 is None:
        raise ZsemError("these models are of CIFAR-10: add --cifar10 with the path of its folder or archive")
    return cifar10


def trained(name: str, kind: type[Model] = Model) -> Any:
    """A model that `train` has finished. ZsemError: it has not."""
    recipe = recipes()[name]
    run = recipe.run(name)
    if not (run / "config.json").exists():
        raise ZsemError(f"{name} is not trained yet: `python -m experiments.models train {name}`")
    model = api.load(run, kind=kind)
    if model.history["iterations"] < recipe.iterations:
        raise ZsemError(f"{name} is trained in part only: `python -m experiments.models train {name}` goes on")
    return model


def class_judge(images: ImageSet, folder: Path) -> Judge:
    """A judge of clean images that tells their classes, one 0/1 attribute each; trained once, some minutes."""
    classes = images.classes.numpy()
    attributes = {name: (classes == i).astype(np.float32) for i, name in enumerate(images.class_names)}
    return judge_for(replace(images, attributes=attributes), folder, iterations=4000)


def cost(names: Sequence[str], cifar10: str | None) -> None:
    """Print what the training of each model takes, from a few iterations of it on this machine."""
    print("| model | what for | parameters, millions | images/s | images | time | done |", "|---" * 7 + "|", sep="\n")
    whole = 0.0
    for name in names:
        recipe = recipes()[name]
        measured = api.estimate(
            images_of(recipe.data, cifar10), preset=recipe.preset, reading=ImageOptions(conditional=recipe.conditional)
        )
        seconds, done = measured.seconds(recipe.images), images_done(recipe.run(name))
        whole += seconds * (1 - done / recipe.images)
        print(
            f"| {name} | {recipe.says} | {measured.parameters / 1e6:.1f} | {measured.images_per_second:.0f} "
            f"| {recipe.images:,} | {clock(seconds)} | {done / recipe.images:.0%} |",
            flush=True,
        )  # fmt: skip
    print(f"\n{clock(whole)} (h:mm:ss) to go")


def images_done(run: Path) -> int:
    """How many images a run has gone through when it was saved last."""
    config = run / "config.json"
    return json.loads(config.read_text())["history"]["images"] if config.exists() else 0


def train(names: Sequence[str], cifar10: str | None) -> None:
    """Train every model that is not trained to its end."""
    for name in names:
        recipe = recipes()[name]
        run = recipe.run(name)
        if images_done(run) >= recipe.iterations * recipe.preset.training.batch_size:
            continue
        api.train(
            images_of(recipe.data, cifar10), run, preset=recipe.preset, iterations=recipe.iterations,
            reading=ImageOptions(conditional=recipe.conditional), resume=(run / "run.json").exists(),
            say=lambda line, name=name: print(f"{name}: {line}", flush=True),
        )  # fmt: skip


def package(name: str) -> None:
    """Put a trained model into the package, with the command that made it."""
    model = trained(name)
    model.history = {
        **model.history,
        "data": recipes()[name].data,
        "command": f"python -m experiments.models train {name}",
    }
    folder = model.save(ASSETS / name, dtype=torch.float16)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["cost", "train", "package"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(recipes()))
    parser.add_argument("--cifar10", metavar="FILE", help="CIFAR-10 in class folders")
    arguments = parser.parse_args()
    names = arguments.names or list(recipes())
    if unknown := [name for name in names if name not in recipes()]:
        parser.error(f"there is no model {unknown[0]!r}; choose among {', '.join(recipes())}")
    if arguments.command == "package":
        for name in names:
            package(name)
        return
    cost(names, arguments.cifar10)
    if arguments.command == "train":
        train(names, arguments.cifar10)


if __name__ == "__main__":
    main()
