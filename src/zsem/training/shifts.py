"""Training of edits from an embedding: Asyrp's f_t, and all weights of a U-Net as in DiffusionCLIP."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from zsem.data.batches import Batches
from zsem.data.pixels import grid, save_png
from zsem.hspace.directional import DirectionalObjective, ShiftObjective, TuningObjective
from zsem.hspace.editable import Editable, invert
from zsem.hspace.embeddings import Goal
from zsem.hspace.latents import invert_as_published, usual_t_edit
from zsem.models.base import Model
from zsem.models.diffusion import Classes, DiffusionModel
from zsem.models.imaging import STEPS, Progress
from zsem.models.inputs import Images, Inputs
from zsem.models.shift import LearnedShift
from zsem.nets.shift import ShiftNet
from zsem.training.loop import Loop
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

Variant = Literal["corrected", "published"]
LATENTS = "latents.parquet"
SHOWN = 8  # images in the picture of a training, and in its figures
MOST_JUDGED = 32


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an edit is learned: the loss, the loop, and the process.

    steps: of the process. published_inversion: DDIM over levels even in t, in place of the exact codec.
    iterations: by default, of `batch_size` images each; one update for every timestep that is edited.
    """

    objective: DirectionalObjective.Config
    settings: Loop.Config
    steps: int
    iterations: int
    published_inversion: bool = False


_QUIET: dict[str, Any] = {"flip": False, "precision": "fp32", "ema_others": (), "ema_snapshots": 0, "weight_decay": 0.0}
RECIPES: dict[Variant, Recipe] = {
    # as the released checkpoints were trained: batch of one, 1000 images once, plain gradient descent at .5
    "published": Recipe(
        objective=DirectionalObjective.Config(
            form="logarithmic", source="image", mode="asymmetric", direction_weight=0.8, reach_weight=0.0
        ),
        settings=Loop.Config(
            batch_size=1, optimiser="sgd", learning_rate=0.5, warmup=0, decay="none", clip=1e9, ema_width=0.0, **_QUIET
        ),
        steps=40,
        iterations=1000,
        published_inversion=True,
    ),
    "corrected": Recipe(
        objective=DirectionalObjective.Config(gain=3.0, reconstruction_weight=6.0),
        settings=Loop.Config(batch_size=4, learning_rate=1e-3, warmup=10, log_every=5, **_QUIET),
        steps=STEPS,
        iterations=150,
    ),
}
TUNING = Recipe(
    objective=DirectionalObjective.Config(t_start=500.0, gain=3.0, reconstruction_weight=6.0),
    settings=Loop.Config(batch_size=8, learning_rate=1e-5, warmup=10, log_every=5, **_QUIET),
    steps=STEPS,
    iterations=25,
)
"""DiffusionCLIP: Adam at a small rate, from the middle of the noise to the image."""


def learn_shift(
    model: Editable,
    images: Images,
    goal: Goal,
    folder: str | Path,
    *,
    recipe: Recipe | Variant = "corrected",
    t_edit: float | int | None = None,
    classes: Classes = None,
    signs: Sequence[int] | None = None,
    iterations: int | None = None,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> LearnedShift:
    """f_t for one goal, which `folder` then holds; a training that it holds is gone on with.

    model: stays as it is. images: real ones of its kind; a few hundred do. classes: of a model that is conditional.
    signs: of every image 1, or -1 where it has what the goal asks for and should lose it; None = they all lack it.
    recipe: "corrected" (ours), "published", or one of your own.
    t_edit: last timestep that is edited; None = `usual_t_edit`, unless the recipe says another.
    iterations, minutes: one of the two, over all resumes; by default the recipe's iterations.
    say, progress: told lines of progress; told (images done, images in all) while they are inverted.
    Its history says how far it gets ("figures", see `DirectionalObjective.figures`).
    Raises ZsemError where the folder holds something else, the images do not fit, or a loss is not finite.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    last = t_edit if t_edit is not None else recipe.objective.t_edit or usual_t_edit(model)
    recipe = replace(recipe, objective=replace(recipe.objective, t_edit=float(last)))
    net = ShiftNet.Config.of(model.unet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.settings.seed)
        shift = LearnedShift(LearnedShift.Config(
            name=goal.name, model=model.stamp, net=net, mode=recipe.objective.mode, gain=recipe.objective.gain,
            t_edit=float(last), steps=recipe.steps,
        ))  # fmt: skip
    shift.net.adopt(model.unet)
    work = _Work(model, images, goal, Path(folder), recipe, classes, say, progress, signs)
    objective = work.objective(ShiftObjective, shift)
    return cast("LearnedShift", work.run(shift, objective, iterations, minutes, lambda made: made))


def tune(
    model: Editable,
    images: Images,
    goal: Goal,
    folder: str | Path,
    *,
    recipe: Recipe = TUNING,
    classes: Classes = None,
    iterations: int | None = None,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Editable:
    """A copy of the model with all weights of its U-Net tuned to one goal (DiffusionCLIP), which `folder` then holds.

    Arguments and errors as for `learn_shift`. `hspace.alternatives.tuned` edits images with it.
    """
    made = copy.deepcopy(model).requires_grad_(True)
    made.history = {
        **model.history, "tuned_from": model.stamp, "t_start": recipe.objective.t_start,
        "gain": recipe.objective.gain,
    }  # fmt: skip
    work = _Work(model, images, goal, Path(folder), recipe, classes, say, progress)
    objective = work.objective(TuningObjective, made.unet)
    return cast("Editable", work.run(made, objective, iterations, minutes, lambda one: cast("Editable", one).unet))


class _Work:
    """What both trainings do alike."""

    def __init__(
        self,
        model: Editable,
        images: Images,
        goal: Goal,
        folder: Path,
        recipe: Recipe,
        classes: Classes,
        say: Callable[[str], None],
        progress: Progress | None,
        signs: Sequence[int] | None = None,
    ) -> None:
        self.model, self.goal, self.folder, self.recipe, self.say = model, goal, folder, recipe, say
        self.inputs, self.progress = model.read(images), progress
        self.classes, self.signs = classes, None if signs is None else torch.tensor(signs, dtype=torch.float32)
        if self.signs is not None and len(self.signs) != len(self.inputs):
            raise ZsemError(f"{len(self.signs)} signs for {len(self.inputs)} images: give one for each")
        self._claim()
        self.codes = self._codes()

    def objective(self, kind: type[DirectionalObjective], network: torch.nn.Module) -> DirectionalObjective:
        from_image = self.recipe.objective.source == "image"
        conditions = None  # the z of an autoencoder, or nothing
        if self.classes is not None and isinstance(self.model, DiffusionModel):
            conditions = self.model.condition(self.classes, len(self.codes))
        return kind(
            self.model, network, self.codes, self.goal, self.recipe.objective, conditions=conditions,
            images=self.inputs.part(slice(None)) if from_image else None, signs=self.signs, progress=self.progress,
        )  # fmt: skip

    def run(
        self,
        made: Model,
        objective: DirectionalObjective,
        iterations: int | None,
        minutes: float | None,
        network_of: Callable[[Model], torch.nn.Module],
    ) -> Model:
        """Train, and load what has been written. network_of: that which is trained, of a copy of `made`."""
        if iterations is None and minutes is None:
            iterations = self.recipe.iterations
        some = torch.arange(min(MOST_JUDGED, len(self.codes)))

        def measure(average: Model, everything: bool) -> None:
            average.history["figures"] = objective.figures(network_of(average), some)

        def picture(average: Model, path: Path) -> None:
            plain, edited = objective.ends(network_of(average), some[:SHOWN])
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = [self.model.display(x0.cpu()) for x0 in (plain, edited)]
            save_png(grid(*shown, captions=["plain", "edited"]), path)

        settings = self.recipe.settings
        loop = Loop(made, objective, settings, self.folder, measure=measure, picture=picture, say=self.say)
        numbers = torch.arange(len(self.codes)).view(-1, 1, 1, 1)
        trained = loop.run(
            Batches(numbers, batch_size=settings.batch_size, seed=settings.seed),
            iterations=iterations, minutes=minutes,
        )  # fmt: skip
        if loop.stop.made:
            raise ZsemError(f"the training in {self.folder} was stopped; the same command goes on with it")
        return trained.eval()

    def _claim(self) -> None:
        """Write down what is trained in the folder; raises ZsemError where it holds something else."""
        about = json.loads(json.dumps({
            "model": self.model.stamp, "name": self.goal.name, "goal": digest(self.goal),
            "images": pixels_digest(self.inputs), "recipe": asdict(self.recipe),
            "signs": None if self.signs is None else self.signs.tolist(),
        }))  # fmt: skip
        path = self.folder / "run.json"
        if path.exists() and json.loads(path.read_text("utf-8")) != about:
            raise ZsemError(
                f"{self.folder} holds a training with another model, goal, images or recipe: give another folder"
            )
        if not path.exists() and (self.folder / "config.json").exists():
            raise ZsemError(f"{self.folder} holds a model: give another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(about, indent=2) + "\n").encode())

    def _codes(self) -> Codes:
        """Of the images: made once, and kept beside the training."""
        path = self.folder / LATENTS
        if path.exists():
            return Codes.load(path)
        make = invert_as_published if self.recipe.published_inversion else invert
        codes = make(
            self.model, self.inputs, classes=self.classes, steps=self.recipe.steps, progress=self.progress
        )  # fmt: skip
        codes.save(path)
        return codes


def digest(goal: Goal) -> str:
    """A name for a goal's numbers."""
    text = json.dumps([goal.direction.tolist(), goal.reach, goal.closeness])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pixels_digest(inputs: Inputs) -> str:
    """A name for the pixels of images."""
    return hashlib.sha256(inputs.pixels.contiguous().numpy().data).hexdigest()[:16]
