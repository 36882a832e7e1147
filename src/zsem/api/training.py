"""Training: from images and a preset to a model in a run folder, for every kind of model alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from zsem.api.loading import load
from zsem.api.watching import Watch
from zsem.data.batches import Batches
from zsem.data.images import ImageSet
from zsem.models.base import Model
from zsem.models.denoising import AutoencoderObjective
from zsem.training.callbacks import Callback
from zsem.training.callbacks import tensorboard as write_tensorboard
from zsem.training.course import time_goal
from zsem.training.environment import describe
from zsem.training.environment import note as note_session
from zsem.training.estimate import Estimate, measure
from zsem.training.families import FAMILIES, kind_of
from zsem.training.images import ImageOptions, Source
from zsem.training.loop import Loop
from zsem.training.plan import Plan, images_for, new_plan, stored_plan
from zsem.training.presets import PRESETS, Preset
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

FEW_IMAGES = 500  # training images, below which a user is warned
READ_PLAINLY = ImageOptions()


def train(
    data: Source,
    out: str | Path,
    *,
    kind: str | None = None,
    preset: str | Path | Preset = "tiny",
    size: int | tuple[int, int] | None = None,
    reading: ImageOptions = READ_PLAINLY,
    minutes: float | None = None,
    iterations: int | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    snapshots: tuple[float, ...] = (),
    limit: int | None = None,
    callbacks: Sequence[Callback] = (),
    tensorboard: bool = False,
    say: Callable[[str], None] = print,
) -> Model:
    """Train a model on images and nothing else; returns the averaged model, which `out` then holds.

    data: a folder, an archive (tar, zip) or a table of images (see `load_images`), an ImageSet, or a torch Dataset.
        Channels and depth follow the images.
    kind: what to train: a diffusion "autoencoder", or another kind of `zsem.training.families.FAMILIES`; by default
        what the preset is for.
    preset: a name of `zsem.training.presets.PRESETS`, a JSON file (see `find_preset`), or a Preset of one's own.
    size: side of the images in pixels, or height and width; by default the preset's.
    reading: how the images are read: shape kept, intensity policy, groups.
    minutes, iterations: one of the two, counted over all resumes.
    resume: go on with the training that `out` holds, with its own preset, size, reading, init and limit, on the same
        images; `kind` must be its own where it is given.
    init: a model whose weights to start from; its configuration is used.
    snapshots: minutes after which a copy of the averaged model is kept under `out`/snapshots.
    limit: use at most so many images, evenly spread.
    callbacks: called with every record of metrics.jsonl and the averaged model, see `zsem.training.callbacks`.
    tensorboard: write the records for TensorBoard to `out`/tensorboard too.
    say: told a line of progress now and then.
    Raises ZsemError for missing data, an `out` that is in use, a size that the networks cannot take, other images than
    before on resume, a loss that is not finite. Whatever is wrong at the start is told before anything is written.
    """
    out = Path(out)
    time_goal(iterations, minutes)
    if not resume and any((out / name).exists() for name in ("run.json", "config.json")):
        raise ZsemError(f"{out} holds a training already; add --resume to go on with it, or choose another folder")
    start = None if init is None or resume else load(init, device="cpu")
    plan = stored_plan(out) if resume else first_plan(kind, preset, size, reading, init, start, limit)
    if kind not in {None, plan.preset.kind}:
        raise ZsemError(
            f"{out} holds a training of kind {plan.preset.kind}, not {kind}: go on with that, or begin anew"
        )
    if plan.preset.kind not in PRESETS:
        raise ZsemError(f"a {plan.preset.kind} is trained on codes, not on images: use `zsem prior RUN DATA`")
    images, plan = images_for(data, plan, resume=resume)
    loop, batches = assemble(images, plan, out, say, start)
    with ExitStack() as stack:
        if loop.main:
            if tensorboard:
                callbacks = [
                    *callbacks, stack.enter_context(write_tensorboard(out / "tensorboard", loop.progress.iteration))
                ]  # fmt: skip
            for note in [*images.notes, *small_set(images, plan.preset.kind)]:
                say(f"note: {note}")
            out.mkdir(parents=True, exist_ok=True)
            write_whole(out / "run.json", plan.text().encode())
            machine = describe(loop.accelerator.device, bf16=loop.half, processes=loop.accelerator.num_processes)
            goal = {"from_iteration": loop.progress.iteration, "minutes": minutes, "iterations": iterations}
            note_session(out / "environment.json", {**goal, **machine})
        return loop.run(batches, iterations=iterations, minutes=minutes, snapshots=snapshots, callbacks=callbacks)


def estimate(
    data: Source,
    *,
    kind: str | None = None,
    preset: str | Path | Preset = "tiny",
    size: int | tuple[int, int] | None = None,
    reading: ImageOptions = READ_PLAINLY,
    init: str | Path | None = None,
    limit: int | None = None,
) -> Estimate:
    """Run a few iterations of a training and tell its speed, memory and room on the disk; nothing is left behind.

    Arguments and errors as for `train`.
    """
    start = None if init is None else load(init, device="cpu")
    images, plan = images_for(data, first_plan(kind, preset, size, reading, init, start, limit), resume=False)
    with TemporaryDirectory() as folder:
        loop, batches = assemble(images, plan, Path(folder), lambda _: None, start)
        return measure(loop, batches)


def first_plan(
    kind: str | None,
    preset: str | Path | Preset,
    size: int | tuple[int, int] | None,
    reading: ImageOptions,
    init: str | Path | None,
    start: Model | None,
    limit: int | None,
) -> Plan:
    """What a new training begins with. `start` is the model `init`."""
    return new_plan(
        kind, preset, size, reading=reading, init=None if init is None else str(init),
        config=None if start is None else start.config, limit=limit,
    )  # fmt: skip


def small_set(images: ImageSet, kind: str) -> list[str]:
    """What to expect of few training images, if they are few."""
    number = images.splits.count("train")
    if number >= FEW_IMAGES:
        return []
    expected, unlabelled = "the networks learn them by heart, and are worse on new ones", ""
    if kind == "autoencoder":
        expected = (
            "reconstruction will be exact all the same, but the network learns them by heart, and z says less of new "
            "images"
        )
    if kind != "classifier":
        unlabelled = ", also unlabelled ones of the same kind"
    return [
        f"{number} training images are few: {expected}; what helps: more images{unlabelled}, --init from a model of "
        "similar images, a smaller preset, a shorter training with an eye on the validation loss"
    ]


def assemble(
    images: ImageSet, plan: Plan, out: Path, say: Callable[[str], None], start: Model | None = None
) -> tuple[Loop, Batches]:
    """The loop that trains as `plan` says, writing to `out`, and the batches of this process.

    start: the model that `plan.init` names, where it has been read already.
    Raises ZsemError where the plan cannot be carried out with these images or on so many processes.
    """
    training = images.split("train")
    config, settings = plan.preset.model, plan.preset.training
    model = first_model(config, settings.seed, plan.init, start)
    model.history = {"data": str(images.source), "train_images": len(training)}
    if plan.reading.group is not None:
        model.history["group"] = plan.reading.group
    if isinstance(plan.preset.objective, AutoencoderObjective.Config):
        # of the training, so it is none of the model's settings; yet decoding must know whether it can do without z
        model.history["z_dropout"] = plan.preset.objective.z_dropout
    watch = Watch(images, plan, say)
    objective = FAMILIES[plan.preset.kind].objective(model, plan.preset.objective)
    loop = Loop(
        model, objective, settings, out,
        measure=watch.measure, picture=watch.picture, validate=watch.validate, say=say,
    )  # fmt: skip
    ranks = loop.accelerator.num_processes
    if settings.batch_size % ranks:
        raise ZsemError(f"a batch of {settings.batch_size} cannot be shared by {ranks} processes; give a multiple")
    if settings.accumulate > settings.batch_size // ranks:
        raise ZsemError(
            f"a batch of {settings.batch_size // ranks} images cannot be gone through in {settings.accumulate} parts: "
            "lower --training.accumulate"
        )
    batches = Batches(
        training, batch_size=settings.batch_size, seed=settings.seed, flip=settings.flip,
        rank=loop.accelerator.process_index, world_size=ranks,
    )  # fmt: skip
    return loop, batches


def first_model(config: Any, seed: int, init: str | None, start: Model | None) -> Model:
    """The model before the first iteration: random weights named by `seed`, or those of the model `init`.

    start: that model, where it has been read already.
    Raises ZsemError where `init` has another architecture, e.g. at another size.
    """
    kind = FAMILIES[kind_of(config)].model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    if init is not None:
        weights = (load(init, kind=kind, device="cpu") if start is None else start).state_dict()
        expected = model.state_dict()
        if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in expected.items()}:
            raise ZsemError(f"{init} has other layers than a model of this size; leave out --size")
        model.load_state_dict(weights)
    return model
