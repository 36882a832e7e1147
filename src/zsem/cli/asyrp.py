"""f_t of Asyrp for attributes, for `zsem directions --space h --method asyrp`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsem.cli.attributes import say
from zsem.cli.command import Report, progress
from zsem.cli.directions import changed, names_in, text
from zsem.cli.images import classes_for, file_stems, open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor

    from zsem.cli.directions import Directions
    from zsem.data.images import ImageSet
    from zsem.hspace.editable import Editable
    from zsem.hspace.embeddings import Goal

LATENTS = 200
"""Images to learn from, where nothing is said."""
CHOICE = 5
"""Times as many are read, to choose those without an attribute from."""
FEW = 32
"""As many images without an attribute are enough to leave the others out."""
KINDS = "autoencoder:RUN, classifier:RUN, clip:PATH or images:A,B"


def check(command: Directions) -> None:
    """Raise ZsemError for options that do not go together, whatever the model."""
    kind, _, rest = (command.embedding or "").partition(":")
    if command.embedding is not None and (kind not in {"autoencoder", "classifier", "clip", "images"} or not rest):
        raise ZsemError(f"--embedding {command.embedding} is none: write {KINDS}")
    names = names_in(command.attribute)
    if not names:
        raise ZsemError("asyrp learns attributes: say which with --attribute, or for texts and images how to call it")
    if kind in {"clip", "images"} and len(names) > 1:
        raise ZsemError(f"--embedding {kind} says one thing: give --attribute one name")
    if (kind == "clip") != (command.texts is not None):
        raise ZsemError("--texts SOURCE TARGET goes with --embedding clip:PATH, and is needed there")
    if command.iterations is not None and command.minutes is not None:
        raise ZsemError("say how long to train with either --iterations or --minutes")


def learn(command: Directions, model: Editable, out: Path) -> Report:
    """Learn an f_t for every attribute, each in a folder of its own."""
    from zsem.data.annotations import with_labels
    from zsem.training.shifts import RECIPES, learn_shift

    recipe = RECIPES[command.variant]
    if changed(command, ["steps"]):
        recipe = replace(recipe, steps=command.steps)
    if changed(command, ["seed"]):
        recipe = replace(recipe, settings=replace(recipe.settings, seed=command.seed))
    assert command.data is not None
    limit = command.limit or LATENTS
    read = open_images(command.data, model, split="train", limit=CHOICE * limit)
    images = with_labels(read, command.annotations).images
    names = names_in(command.attribute)
    stems = file_stems([f"{name}-asyrp.folder".replace("/", "-").replace("\\", "-") for name in names], len(names))
    goals = [_goal(command, model, name, images) for name in names]
    figures = []
    for goal, stem in zip(goals, stems, strict=True):
        say(f"f_t for {goal.name}")
        chosen, signs = _learned_from(images, goal.name, limit, having=command.variant == "corrected")
        with progress("inverting") as done:
            made = learn_shift(
                model, chosen, goal, out / stem, recipe=recipe, t_edit=_t_edit(command, model, goal),
                classes=_classes(model, chosen), signs=signs, iterations=command.iterations, minutes=command.minutes,
                say=say, progress=done,
            )  # fmt: skip
        figures.append({
            "name": goal.name, "images": len(chosen), "t_edit": made.config.t_edit,
            "iterations": made.history["iterations"], "minutes": made.history["minutes"], **made.history["figures"],
            "folder": stem,
        })  # fmt: skip
    return Report(
        figures={"space": "h", "method": "asyrp", "variant": command.variant, "directions": figures, "out": str(out)},
        rows=[{name: str(v) if isinstance(v, int) else text(v) for name, v in row.items()} for row in figures],
        notes=[f"folders in {out}, which `zsem edit --direction` takes like files of directions"],
    )


def _goal(command: Directions, model: Editable, name: str, images: ImageSet) -> Goal:
    """Which way the edit should go, and how far where that can be told."""
    from zsem import api
    from zsem.hspace import embeddings
    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.models.base import Model, find_model
    from zsem.models.classifier import NoisyClassifier
    from zsem.models.judge import Judge
    from zsem.nets.clip import load_clip
    from zsem.semantics.attributes import Semantics

    if command.embedding is None and not isinstance(model, DiffusionAutoencoder):
        raise ZsemError(f"asyrp asks an embedding which way to go: say --embedding {KINDS}")
    kind, _, rest = (command.embedding or f"autoencoder:{command.model}").partition(":")
    if kind == "autoencoder":
        other = api.load(rest, kind=DiffusionAutoencoder)
        learned = Semantics.load(find_model(rest) / "semantics", other)
        # codes of the two kinds differ along it, and can follow; a logistic probe's weight points where no codes are
        return embeddings.towards_attribute(other, learned, name, method="constrained")
    if kind == "images":
        return _between(model, rest, name)
    if kind == "clip":
        assert command.texts is not None
        goal = embeddings.towards_text(load_clip(rest).to(model.device), *command.texts, name=name)
    else:
        found = api.load(rest, kind=Model)
        if not isinstance(found, Judge | NoisyClassifier):
            raise ZsemError(f"{rest} is no classifier: train one with `zsem train --model classifier`")
        goal = embeddings.towards_class(found, name)
    sets = _labelled(model, images, name)
    return goal if sets is None else goal.measured(*sets)


def _between(model: Editable, sources: str, name: str) -> Goal:
    """From the images of one folder to those of another, in the model's own z, else in ImageNet features."""
    from zsem.hspace.embeddings import ZEmbedding, frozen, towards_images
    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.nets.features import load_efficientnet_lite0

    first, comma, second = sources.partition(",")
    if not comma or not first or not second:
        raise ZsemError(f"--embedding images:{sources} names one set: write images:A,B, from the first to the second")
    if isinstance(model, DiffusionAutoencoder):
        embedding = ZEmbedding(model)
    else:
        embedding = frozen(load_efficientnet_lite0().to(model.device))
    normalise = model.config.intensity.normalise
    pairs = [normalise(open_images(source, model).pixels).to(model.device) for source in (first, second)]
    return towards_images(embedding, *pairs, name=name)


def _labelled(model: Editable, images: ImageSet, name: str) -> tuple[Tensor, Tensor] | None:
    """Images without an attribute and with it, in [-1, 1], where they have such labels."""
    values = images.attributes.get(name)
    if values is None or not ((values == 0).any() and (values == 1).any()):
        return None
    chosen = [images.subset([i for i, v in enumerate(values) if v == kind]).limit(LATENTS) for kind in (0, 1)]
    without, having = (model.config.intensity.normalise(part.pixels).to(model.device) for part in chosen)
    return without, having


def _learned_from(images: ImageSet, name: str, limit: int, *, having: bool) -> tuple[ImageSet, list[int] | None]:
    """At most `limit` images, and which of them lack an attribute (1) or have it and should lose it (-1).

    having: whether those are wanted too. Where too few are known to lack it all images are taken, for such.
    """
    values = images.attributes.get(name)
    lacking = [] if values is None else [i for i, value in enumerate(values) if value == 0]
    if values is None or len(lacking) < FEW:
        return images.limit(limit), None
    if not having:
        return images.subset(lacking).limit(limit), None
    chosen = images.subset([i for i, value in enumerate(values) if value in {0, 1}]).limit(limit)
    return chosen, [1 if value == 0 else -1 for value in chosen.attributes[name]]


def _classes(model: Editable, images: ImageSet) -> list[int] | None:
    classes = classes_for(model, images)
    return None if classes is None else classes.tolist()


def _t_edit(command: Directions, model: Editable, goal: Goal) -> float:
    """As the command says, else by the curves beside the model, else by the size of the images."""
    from zsem.hspace.intervals import Curves, phases
    from zsem.hspace.latents import usual_t_edit
    from zsem.models.base import find_model

    if command.t_edit is not None:
        return float(command.t_edit)
    file = find_model(command.model) / "hspace" / "intervals.json"
    if not file.exists():
        return float(usual_t_edit(model))
    return float(phases(Curves.load(file), similarity=goal.closeness, t_boost=0).t_edit)
