"""The verbs that begin everything: `load` a model, `train` one."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import torch
from pydantic import TypeAdapter, ValidationError

from zsem.data.batches import Batches
from zsem.data.images import ImageSet
from zsem.interop.conventions import GUESS, Options
from zsem.interop.importing import Imported, is_foreign, read_models
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model, ModelT
from zsem.models.denoising import AutoencoderObjective
from zsem.training.images import ImageOptions, Source, read_images
from zsem.training.loop import Loop, time_goal
from zsem.training.machine import default_device
from zsem.training.pictures import sample_sheet
from zsem.training.presets import PRESETS, Preset
from zsem.values.direction import save_directions
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

MEASURED_IMAGES = 1024  # images that statistics of an unfinished model are taken over
SHOWN_IMAGES = 8  # images in the pictures of a training
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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run folder remembers of how it was begun (run.json), so that --resume goes on with the same."""

    preset: Preset
    init: str | None = None
    limit: int | None = None
    reading: ImageOptions = field(default_factory=ImageOptions)
    images: str = ""
    """checksum of the training images"""


def train(
    data: Source,
    out: str | Path,
    *,
    preset: str | Preset = "tiny",
    size: int | tuple[int, int] | None = None,
    reading: ImageOptions = READ_PLAINLY,
    minutes: float | None = None,
    iterations: int | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    snapshots: tuple[float, ...] = (),
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> DiffusionAutoencoder:
    """Train a diffusion autoencoder on images and nothing else; returns the averaged model, which `out` then holds.

    data: a folder, an archive (tar, zip) or a table of images (see `load_images`), an ImageSet, or a torch Dataset.
        Channels and depth follow the images.
    preset: a name of `zsem.training.presets.PRESETS`, or a Preset of one's own.
    size: side of the images in pixels, or height and width; by default the preset's.
    reading: how the images are read: shape kept, intensity policy, groups.
    minutes, iterations: one of the two, counted over all resumes.
    resume: go on with the training that `out` holds, with its own preset, size, reading, init and limit, on the same
        images.
    init: a model whose weights to start from; its configuration is used.
    snapshots: minutes after which a copy of the averaged model is kept under `out`/snapshots.
    limit: use at most so many images, evenly spread.
    say: told a line of progress now and then.
    Raises ZsemError for missing data, an `out` that is in use, a size that the networks cannot take, other images than
    before on resume. Whatever is wrong is told before anything is written.
    """
    out = Path(out)
    time_goal(iterations, minutes)
    chosen = stored_plan(out) if resume else new_plan(out, preset, size, reading, init=init, limit=limit)
    images, chosen = images_for(data, chosen, resume=resume)
    training, held_out = images.split("train"), images.held_out()
    config, settings = chosen.preset.model, chosen.preset.training
    model = first_model(config, settings.seed, chosen.init)
    model.history = {"data": str(images.source), "train_images": len(training)}
    if chosen.reading.group is not None:
        model.history["group"] = chosen.reading.group

    def measure(average: Model, everything: bool) -> None:
        assert isinstance(average, DiffusionAutoencoder)
        some = training if everything else training.subset(range(min(MEASURED_IMAGES, len(training))))
        average.measure_codes(some, held_out)

    def picture(average: Model, path: Path) -> None:
        assert isinstance(average, DiffusionAutoencoder)
        sample_sheet(average, held_out.subset(range(min(SHOWN_IMAGES, len(held_out)))), path)

    loop = Loop(
        model, AutoencoderObjective(model, chosen.preset.objective), settings, out,
        measure=measure, picture=picture, say=say,
    )  # fmt: skip
    ranks = loop.accelerator.num_processes
    if settings.batch_size % ranks:
        raise ZsemError(f"a batch of {settings.batch_size} cannot be shared by {ranks} processes; give a multiple")
    batches = Batches(
        training, batch_size=settings.batch_size, seed=settings.seed, flip=settings.flip,
        rank=loop.accelerator.process_index, world_size=ranks,
    )  # fmt: skip
    if loop.main:
        for note in images.notes:
            say(f"note: {note}")
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "run.json", (json.dumps(asdict(chosen), indent=2) + "\n").encode())
    trained = loop.run(batches, iterations=iterations, minutes=minutes, snapshots=snapshots)
    assert isinstance(trained, DiffusionAutoencoder)
    return trained


def stored_plan(out: Path) -> Plan:
    """How the training in `out` was begun; raises ZsemError where there is none."""
    path = out / "run.json"
    if not path.exists():
        raise ZsemError(f"{out} holds no training to resume; leave out --resume to begin one")
    try:
        return TypeAdapter(Plan).validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ZsemError(f"{path}: {where}: {first['msg']}; begin anew with --init {out}") from None


def new_plan(
    out: Path,
    preset: str | Preset,
    size: int | tuple[int, int] | None,
    reading: ImageOptions,
    *,
    init: str | Path | None,
    limit: int | None,
) -> Plan:
    """The preset, or the configuration of the model to start from, at the asked size."""
    if (out / "run.json").exists() or (out / "config.json").exists():
        raise ZsemError(f"{out} holds a training already; add --resume to go on with it, or choose another folder")
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ZsemError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    if init is not None:
        preset = replace(preset, model=load(init, kind=DiffusionAutoencoder, device="cpu").config)
    if size is not None:
        if reading.keep_shape:
            raise ZsemError("give --size or --keep-shape, not both")
        preset = replace(preset, model=replace(preset.model, image_size=size))
    return Plan(preset=preset, init=None if init is None else str(init), limit=limit, reading=reading)


def images_for(data: Source, plan: Plan, *, resume: bool) -> tuple[ImageSet, Plan]:
    """The images to train on, and the plan with what they ask of the model; raises ZsemError where they do not fit."""
    fixed = resume or plan.init is not None
    images, config = read_images(data, plan.preset.model, plan.reading, limit=plan.limit, fixed=fixed)
    checksum = hashlib.sha256(images.split("train").pixels.numpy().data).hexdigest()
    if resume and plan.images != checksum:
        raise ZsemError("the training to resume had other images; take the same, or begin a new one with --init")
    return images, replace(plan, preset=replace(plan.preset, model=config), images=checksum)


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
