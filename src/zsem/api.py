"""The verbs that begin everything: `load` a model, `train` one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

import torch

from zsem.data.batches import Batches
from zsem.data.images import ImageSet
from zsem.interop.conventions import GUESS, Options
from zsem.interop.importing import Imported, is_foreign, read_models
from zsem.metrics.health import health_of_z, verdict
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model, ModelT
from zsem.models.denoising import AutoencoderObjective
from zsem.training import posthoc
from zsem.training.callbacks import Callback
from zsem.training.callbacks import tensorboard as write_tensorboard
from zsem.training.course import time_goal
from zsem.training.ema import WIDEST
from zsem.training.environment import describe
from zsem.training.environment import note as note_session
from zsem.training.estimate import Estimate, measure
from zsem.training.images import ImageOptions, Source
from zsem.training.loop import Loop
from zsem.training.machine import default_device
from zsem.training.pictures import sample_sheet
from zsem.training.plan import Plan, images_for, new_plan, stored_plan
from zsem.training.presets import Preset
from zsem.training.validation import validate
from zsem.values.direction import save_directions
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

MEASURED_IMAGES = 1024  # images that statistics of an unfinished model are taken over
SHOWN_IMAGES = 8  # images in the pictures of a training
FEW_IMAGES = 500  # training images, below which a user is warned
CHOICE_IMAGES = 128  # held-out images by which the length of an average is chosen
WIDTHS = (0.05, 0.07, 0.1, 0.14, 0.2, 0.25)  # lengths that are tried then
READ_PLAINLY = ImageOptions()


@overload
def load(name: str | Path, *, device: str | torch.device | None = None, options: Options = GUESS) -> Any: ...


@overload
def load(
    name: str | Path, *, kind: type[ModelT], device: str | torch.device | None = None, options: Options = GUESS
) -> ModelT: ...


def load(
    name: str | Path,
    *,
    kind: type[Model] = Model,
    device: str | torch.device | None = None,
    options: Options = GUESS,
) -> Model:
    """Load a model: a run folder, "owner/name" on the Hugging Face hub, or a foreign checkpoint as `zsem import` reads.

    kind: the class that is wanted, e.g. DiffusionAutoencoder.
    device: where to put it; by default an accelerator where there is one.
    options: how to read a foreign checkpoint, where it does not tell and the guess, which a warning names, is wrong.
    Raises ZsemError where there is no such model, it is damaged, or of another kind.
    """
    device = default_device() if device is None else device
    if not is_foreign(Path(name)):
        return kind.from_pretrained(name, device=device)
    found = read_models([Path(name)], options)
    if not isinstance(found.model, kind):
        there = "no model" if found.model is None else f"a {type(found.model).__name__}"
        raise ZsemError(f"{name} holds {there}, a {kind.__name__} is wanted")
    notes = [*found.notes, *(["it holds a latent network too, which `zsem import` keeps"] if found.prior else [])]
    for note in notes:
        warnings.warn(f"{name}: {note}", stacklevel=2)
    return found.model.to(device).eval()


def import_models(files: Sequence[str | Path], out: str | Path, options: Options = GUESS) -> Imported:
    """Turn foreign checkpoints into a run folder; returns what was found in them.

    files: checkpoints that belong together, e.g. an autoencoder, its latent.pkl and its classifier; or what belongs to
        the model that `out` already holds.
    Writes the model to `out`, its latent DDIM to `out`/prior, and directions to `out`/semantics/directions.safetensors.
    Raises ZsemError where a file cannot be read or does not fit, before anything is written.
    """
    out = Path(out)
    paths = [Path(file) for file in files]
    if not paths:
        raise ZsemError("there is nothing to import: name a checkpoint file")
    if out.is_file():
        raise ZsemError(f"{out} is a file: name a folder for the model")
    for path in paths:
        if not is_foreign(path):
            raise ZsemError(f"{path} is neither a checkpoint file nor a folder of diffusers: check the path")
    found = read_models(paths, options)
    model = found.model
    if model is None:
        if not (out / "config.json").exists():
            raise ZsemError(
                f"{', '.join(map(str, paths))} belong to an autoencoder: import that as well, or into its folder"
            )
        model = complete(load(out, kind=DiffusionAutoencoder, device="cpu"), found, out)
    elif out.exists() and any(out.iterdir()):
        raise ZsemError(f"{out} is not empty: choose another folder")
    model.save(out)
    if found.prior is not None:
        found.prior.save(out / "prior")
    if directions := found.directions(model.stamp):
        save_directions(out / "semantics" / "directions.safetensors", directions)
    return found


def complete(model: DiffusionAutoencoder, found: Imported, out: Path) -> DiffusionAutoencoder:
    """The model of `out` with the statistics of z that were found; raises ZsemError where they are another model's."""
    mean, std = found.z_mean, found.z_std
    assert mean is not None and std is not None  # a classifier is not read without them
    if mean.shape != model.z_mean.shape:
        raise ZsemError(f"the files are for codes of {len(mean)} numbers and {out} has {len(model.z_mean)}")
    known = bool((model.z_std != 1).any())
    if known and not torch.allclose(mean, model.z_mean, atol=1e-3, rtol=1e-3):
        raise ZsemError(f"the files have other statistics of z than {out}: they do not belong together")
    model.z_mean.copy_(mean)
    model.z_std.copy_(std)
    model.history["origin"] = [*model.history.get("origin", []), *found.origins]
    return model


def train(
    data: Source,
    out: str | Path,
    *,
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
) -> DiffusionAutoencoder:
    """Train a diffusion autoencoder on images and nothing else; returns the averaged model, which `out` then holds.

    data: a folder, an archive (tar, zip) or a table of images (see `load_images`), an ImageSet, or a torch Dataset.
        Channels and depth follow the images.
    preset: a name of `zsem.training.presets.PRESETS`, a JSON file (see `find_preset`), or a Preset of one's own.
    size: side of the images in pixels, or height and width; by default the preset's.
    reading: how the images are read: shape kept, intensity policy, groups.
    minutes, iterations: one of the two, counted over all resumes.
    resume: go on with the training that `out` holds, with its own preset, size, reading, init and limit, on the same
        images.
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
    plan = stored_plan(out) if resume else first_plan(preset, size, reading, init, limit)
    images, plan = images_for(data, plan, resume=resume)
    loop, batches = assemble(images, plan, out, say)
    with ExitStack() as stack:
        if loop.main:
            if tensorboard:
                callbacks = [
                    *callbacks, stack.enter_context(write_tensorboard(out / "tensorboard", loop.progress.iteration))
                ]  # fmt: skip
            for note in [*images.notes, *small_set(images)]:
                say(f"note: {note}")
            out.mkdir(parents=True, exist_ok=True)
            write_whole(out / "run.json", (json.dumps(asdict(plan), indent=2) + "\n").encode())
            machine = describe(loop.accelerator.device, bf16=loop.half, processes=loop.accelerator.num_processes)
            goal = {"from_iteration": loop.progress.iteration, "minutes": minutes, "iterations": iterations}
            note_session(out / "environment.json", {**goal, **machine})
        trained = loop.run(batches, iterations=iterations, minutes=minutes, snapshots=snapshots, callbacks=callbacks)
    assert isinstance(trained, DiffusionAutoencoder)
    return trained


def estimate(
    data: Source,
    *,
    preset: str | Path | Preset = "tiny",
    size: int | tuple[int, int] | None = None,
    reading: ImageOptions = READ_PLAINLY,
    init: str | Path | None = None,
    limit: int | None = None,
) -> Estimate:
    """Run a few iterations of a training and tell its speed, memory and room on the disk; nothing is left behind.

    Arguments and errors as for `train`.
    """
    images, plan = images_for(data, first_plan(preset, size, reading, init, limit), resume=False)
    with TemporaryDirectory() as folder:
        loop, batches = assemble(images, plan, Path(folder), lambda _: None)
        return measure(loop, batches)


def choose_average(
    run: str | Path,
    *,
    sigma_rel: float | None = None,
    data: Source | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> DiffusionAutoencoder:
    """The model of a run with its weights averaged over another length, chosen after the training (EDM2, section 3).

    sigma_rel: relative width of the average, between 0 and 0.28; None takes the one of `WIDTHS` with the least loss on
        held-out images.
    data: the images of the training; by default where they were then.
    out: folder for the model; by default `run`/ema/`sigma_rel`.
    say: told the loss of each width.
    Raises ZsemError where the run has no checkpoint, the images are others, or no average has that width.
    """
    run = Path(run)
    plan, model = stored_plan(run), load(run, kind=DiffusionAutoencoder)
    if sigma_rel is not None and not 0 < sigma_rel < WIDEST:
        raise ZsemError(f"an average's relative width must lie between 0 and {WIDEST}, not {sigma_rel:g}")
    images, plan = images_for(model.history["data"] if data is None else data, plan, resume=True)
    kept, judged = posthoc.sources(run), images.held_out().limit(CHOICE_IMAGES)
    tried: dict[float, dict[str, float]] = {}
    for width in WIDTHS if sigma_rel is None else (sigma_rel,):
        distance = use_average(model, kept, width)
        loss = validate(model, judged, plan.preset.objective.weighting).loss
        tried[width] = {"loss": loss, "distance": distance}
        say(f"sigma_rel {width:g}: validation loss {loss:.5f}")
    best = min(tried, key=lambda width: tried[width]["loss"])
    use_average(model, kept, best)
    model.history["ema"] = {"sigma_rel": best, "tried": {f"{width:g}": tried[width] for width in tried}}
    model.history["validation"] = judge(model, images, plan)
    model.measure_codes(images.split("train"), images.held_out())
    model.save(run / "ema" / f"{best:g}" if out is None else out)
    return model


def use_average(model: DiffusionAutoencoder, kept: list[posthoc.Source], sigma_rel: float | int) -> float:
    """Put the average of that width into `model`; returns how far its profile is from the wanted one, relatively."""
    parameters = dict(model.named_parameters())
    weights, distance = posthoc.reconstruct(kept, sigma_rel, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return distance


def first_plan(
    preset: str | Path | Preset,
    size: int | tuple[int, int] | None,
    reading: ImageOptions,
    init: str | Path | None,
    limit: int | None,
) -> Plan:
    """What a new training begins with."""
    config = None if init is None else load(init, kind=DiffusionAutoencoder, device="cpu").config
    return new_plan(preset, size, reading=reading, init=None if init is None else str(init), config=config, limit=limit)


def small_set(images: ImageSet) -> list[str]:
    """What to expect of few training images, if they are few."""
    number = images.splits.count("train")
    if number >= FEW_IMAGES:
        return []
    return [
        f"{number} training images are few: reconstruction will be exact all the same, but the network learns them by "
        "heart, and z says less of new images; what helps: more images, also unlabelled ones of the same kind, --init "
        "from a model of similar images, a smaller preset, a shorter training with an eye on the validation loss"
    ]


def assemble(images: ImageSet, plan: Plan, out: Path, say: Callable[[str], None]) -> tuple[Loop, Batches]:
    """The loop that trains as `plan` says, writing to `out`, and the batches of this process.

    Raises ZsemError where the plan cannot be carried out with these images or on so many processes.
    """
    training, held_out = images.split("train"), images.held_out()
    config, settings = plan.preset.model, plan.preset.training
    model = first_model(config, settings.seed, plan.init)
    model.history = {"data": str(images.source), "train_images": len(training)}
    if plan.reading.group is not None:
        model.history["group"] = plan.reading.group

    def measure(average: Model, everything: bool) -> None:
        assert isinstance(average, DiffusionAutoencoder)
        some = training if everything else training.subset(range(min(MEASURED_IMAGES, len(training))))
        average.measure_codes(some, held_out)

    def picture(average: Model, path: Path) -> None:
        assert isinstance(average, DiffusionAutoencoder)
        sample_sheet(average, held_out.subset(range(min(SHOWN_IMAGES, len(held_out)))), path)

    def validation(average: Model) -> dict[str, Any]:
        assert isinstance(average, DiffusionAutoencoder)
        figures = judge(average, images, plan)
        if "z" in figures:
            say(verdict(figures["z"]["ratio"], figures["z"]["used"]))
        return figures

    loop = Loop(
        model, AutoencoderObjective(model, plan.preset.objective), settings, out,
        measure=measure, picture=picture, validate=validation, say=say,
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


def judge(model: DiffusionAutoencoder, images: ImageSet, plan: Plan) -> dict[str, Any]:
    """Figures of a validation on held-out images, JSON-able: the loss, and as "z" whether z is used."""
    judged = images.held_out().limit(plan.preset.training.validation_images)
    figures = asdict(validate(model, judged, plan.preset.objective.weighting))
    if len(judged) > 1:
        figures["z"] = asdict(health_of_z(model, judged, unconditional=plan.preset.objective.z_dropout > 0))
    return figures


def first_model(config: DiffusionAutoencoder.Config, seed: int, init: str | None) -> DiffusionAutoencoder:
    """The model before the first iteration: random weights named by `seed`, or those of the model `init`.

    Raises ZsemError where `init` has another architecture, e.g. at another size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiffusionAutoencoder(config)
    if init is not None:
        weights, expected = load(init, kind=DiffusionAutoencoder, device="cpu").state_dict(), model.state_dict()
        if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in expected.items()}:
            raise ZsemError(f"{init} has other layers than a model of this size; leave out --size")
        model.load_state_dict(weights)
    return model
