"""Trainings that tables and figures are made with, and results that are kept: whatever was stopped goes on.

A training lies in runs/models/NAME-HASH, where the hash is of all its settings: a changed recipe is a new run, an equal
one goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zsem import api
from zsem.data import builtin
from zsem.evaluation.keeping import digest
from zsem.models.base import Model
from zsem.models.imaging import ImageModel
from zsem.training.estimate import Estimate
from zsem.training.images import ImageOptions
from zsem.training.log import clock
from zsem.training.presets import Preset, preset_settings
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

RUNS, DATA = Path("runs/models"), Path("runs/data")
AVATARS = {"number": 12_000, "size": 64, "style": "avataaars", "jitter": "mild", "seed": 0}
CIFAR10 = "cifar10"  # the one set that is not made here


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model to train: what it is for, on what, how, and on how many images, repeats counted.

    limit: use at most so many different images.
    init: name and recipe of a model whose weights it begins with, under settings of its own.
    """

    says: str
    data: str
    preset: Preset
    images: int
    conditional: bool = False
    limit: int | None = None
    init: tuple[str, Recipe] | None = None

    @property
    def iterations(self) -> int:
        return self.images // self.preset.training.batch_size

    def run(self, name: str) -> Path:
        """The folder of its run, which all settings have a part in."""
        about = {**preset_settings(self.preset), "images": self.images, "conditional": self.conditional}
        about["data"] = AVATARS if self.data == "avatars-64" else self.data
        if self.limit is not None:
            about["limit"] = self.limit
        if self.init is not None:
            about["init"] = self._first().name
        return RUNS / f"{name}-{digest(about)}"

    def _first(self) -> Path:
        """The run of the model that it begins with."""
        assert self.init is not None
        name, first = self.init
        return first.run(name)

    def start(self, run: Path) -> Path | None:
        """The weights to begin with, in a folder inside `run`, under this recipe's settings of the prediction."""
        if self.init is None:
            return None
        first, wanted = api.load(self._first(), kind=ImageModel, device="cpu"), self.preset.model
        config = replace(first.config, prediction=wanted.prediction, sigma_data=wanted.sigma_data)
        model = type(first)(config)
        model.load_state_dict(first.state_dict())
        return model.save(run / "start")

    def done(self, name: str) -> float:
        """The share of its images that its run had gone through when it was saved last."""
        config = self.run(name) / "config.json"
        if not config.exists():
            return 0.0
        return json.loads(config.read_text())["history"]["iterations"] / self.iterations

    def estimate(self, cifar10: str | None) -> Estimate:
        """What its training takes, from a few iterations of it on this machine."""
        reading = ImageOptions(conditional=self.conditional)
        return api.estimate(images_of(self.data, cifar10), preset=self.preset, reading=reading, limit=self.limit)


def images_of(data: str, cifar10: str | None) -> str:
    """The path of a recipe's images, which are rendered where that can be done."""
    if data != CIFAR10:
        return str(builtin.avatars(DATA / data, **AVATARS))
    if cifar10 is None:
        raise ZsemError("these models are of CIFAR-10: add --cifar10 with the path of its folder or archive")
    return cifar10


def in_order(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """All of them, each after the one that it begins with."""
    ordered: dict[str, Recipe] = {}
    for name, recipe in recipes.items():
        if recipe.init is not None:
            ordered |= in_order(dict([recipe.init]))
        ordered[name] = recipe
    return ordered


def cost(recipes: Mapping[str, Recipe], cifar10: str | None) -> None:
    """Print what the training of each model takes."""
    print("| model | what for | parameters, millions | images/s | images | time | done |", "|---" * 7 + "|", sep="\n")
    whole = 0.0
    for name, recipe in in_order(recipes).items():
        measured, done = recipe.estimate(cifar10), recipe.done(name)
        seconds = measured.seconds(recipe.images)
        whole += seconds * (1 - done)
        print(
            f"| {name} | {recipe.says} | {measured.parameters / 1e6:.1f} | {measured.images_per_second:.0f} "
            f"| {recipe.images:,} | {clock(seconds)} | {done:.0%} |",
            flush=True,
        )  # fmt: skip
    print(f"\n{clock(whole)} (h:mm:ss) to go")


def train(recipes: Mapping[str, Recipe], cifar10: str | None) -> None:
    """Train every model that is not trained to its end. SystemExit: a signal asked to stop."""
    for name, recipe in in_order(recipes).items():
        if recipe.done(name) >= 1:
            continue
        run = recipe.run(name)
        resume = (run / "run.json").exists()
        api.train(
            images_of(recipe.data, cifar10), run, preset=recipe.preset, iterations=recipe.iterations,
            reading=ImageOptions(conditional=recipe.conditional), resume=resume,
            init=None if resume else recipe.start(run), limit=recipe.limit,
            say=lambda line, name=name: print(f"{name}: {line}", flush=True),
        )  # fmt: skip
        if recipe.done(name) < 1:  # the loop ends orderly then, and the next model would begin
            raise SystemExit(f"{name} was stopped; the same command goes on with it")


def trained(recipe: Recipe, name: str, command: str, kind: type[Model] = Model) -> Any:
    """The model of a recipe. ZsemError: it is not trained to its end, which `command` would do."""
    return api.load(trained_run(recipe, name, command), kind=kind)


def trained_run(recipe: Recipe, name: str, command: str) -> Path:
    """Its folder. ZsemError as `trained`."""
    done = recipe.done(name)
    if not done:
        raise ZsemError(f"{name} is not trained yet: `{command}`")
    if done < 1:
        raise ZsemError(f"{name} is trained in part only: `{command}` goes on")
    return recipe.run(name)


def kept(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Figures, found in their file or made and kept there, with the seconds that took."""
    if not path.exists():
        started = time.perf_counter()
        figures = {**work(), "seconds": round(time.perf_counter() - started, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(figures, indent=2) + "\n").encode())
        print(f"{path.stem}: {figures['seconds']} s", flush=True)
    return json.loads(path.read_text())
