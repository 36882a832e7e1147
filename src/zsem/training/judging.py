"""Training of judges: once per data set, kept in a folder, and found there the next time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from zsem.data.batches import Batches
from zsem.data.images import ImageSet
from zsem.data.intensity import choose_intensity
from zsem.models.base import Model
from zsem.models.judge import Judge, JudgeObjective
from zsem.semantics.probes import auroc, is_binary, labelled
from zsem.training.loop import Loop
from zsem.values.errors import ZsemError

ITERATIONS = 400
OBJECTIVE = JudgeObjective.Config()
SETTINGS = Loop.Config(
    learning_rate=2e-3, warmup=50, log_every=20, checkpoint_minutes=1.0, flip=False, ema_others=(), ema_snapshots=0
)


def binary_attributes(images: ImageSet) -> ImageSet:
    """The same images with their 0/1 attributes alone. Raises ZsemError where there are none."""
    chosen = {name: values for name, values in images.attributes.items() if is_binary(values)}
    if not chosen:
        raise ZsemError(
            f"{images.source} has no 0/1 attributes: put a table attributes.csv beside the images, or sort them into "
            "folders"
        )
    return replace(images, attributes=chosen)


def judge_for(
    images: ImageSet,
    folder: str | Path,
    *,
    config: Judge.Config | None = None,
    objective: JudgeObjective.Config = OBJECTIVE,
    settings: Loop.Config = SETTINGS,
    iterations: int = ITERATIONS,
    say: Callable[[str], None] = print,
) -> Judge:
    """The judge of `images` that `folder` holds; where there is none it is trained first, or its training finished.

    images: training and held-out images with 0/1 attributes; the judge learns all of these from the training images.
    config: the network; by default one for these images.
    say: told a line of progress now and then.
    Its history has the AUROC of every attribute on the held-out images ("auroc").
    Raises ZsemError where the folder holds another model or the judge of other images, or the images no attributes.
    """
    folder, images = Path(folder), binary_attributes(images)
    training = images.split("train")
    names = tuple(images.attributes)
    config = config or Judge.Config(
        attributes=names, image_size=images.size, image_channels=images.channels,
        intensity=choose_intensity(training.pixels),
    )  # fmt: skip
    checksum = hashlib.sha256(training.pixels.numpy().data).hexdigest()
    if (folder / "config.json").exists():
        judge = Judge.from_pretrained(folder)
        if judge.history.get("images_sha256") != checksum or judge.config.attributes != names:
            raise ZsemError(f"{folder} holds the judge of other images or attributes; give another folder")
        if judge.history["iterations"] >= iterations:
            return judge
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        judge = Judge(config)
    judge.history = {"data": images.source, "train_images": len(training), "images_sha256": checksum}
    held_out = images.held_out()

    def measure(average: Model, everything: bool) -> None:
        assert isinstance(average, Judge)
        average.history["auroc"] = held_out_auroc(average, held_out)

    def picture(average: Model, path: Path) -> None:
        """A judge makes no pictures."""

    def validate(average: Model) -> dict[str, float]:
        assert isinstance(average, Judge)
        return {"loss": held_out_loss(average, held_out)}

    loop = Loop(
        judge, JudgeObjective(judge, objective), settings, folder,
        measure=measure, picture=picture, validate=validate, say=say,
    )  # fmt: skip
    batches = Batches(training, batch_size=settings.batch_size, seed=settings.seed, flip=settings.flip)
    folder.mkdir(parents=True, exist_ok=True)
    trained = loop.run(batches, iterations=iterations)
    if loop.stop.made:
        raise ZsemError(f"the training of the judge in {folder} was stopped; the same command goes on with it")
    assert isinstance(trained, Judge)
    return trained


def held_out_auroc(judge: Judge, held_out: ImageSet) -> dict[str, float]:
    """AUROC of every attribute on images that the judge has not seen; attributes of one kind only are left out."""
    logits = judge.logits(held_out)
    found = {}
    for column, name in enumerate(judge.config.attributes):
        known, labels = labelled(logits[:, column : column + 1], held_out.attributes[name])
        score = auroc(known[:, 0], labels)
        if not math.isnan(score):
            found[name] = round(score, 4)
    return found


def held_out_loss(judge: Judge, held_out: ImageSet) -> float:
    """Mean binary cross-entropy over the attributes that held-out images have labels for."""
    logits = judge.logits(held_out.pixels)
    labels = torch.from_numpy(np.stack([held_out.attributes[name] for name in judge.config.attributes], axis=1))
    known = ~labels.isnan()
    return float(F.binary_cross_entropy_with_logits(logits.float()[known], labels.float()[known]))
