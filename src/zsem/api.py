"""The verbs that begin everything: `load` a model, `train` one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from zsem.data.batches import Batches
from zsem.data.images import ImageSet, load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model
from zsem.models.denoising import AutoencoderObjective
from zsem.training.loop import Loop
from zsem.training.pictures import sample_sheet
from zsem.training.presets import PRESETS, Preset
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

MEASURED_IMAGES = 1024  # images that statistics of an unfinished model are taken over
SHOWN_IMAGES = 8  # images in the pictures of a training


def load(name: str | Path, *, device: str | torch.device | None = None) -> DiffusionAutoencoder:
    """Load a trained model: a run folder, or "owner/name" on the Hugging Face hub.

    device: where to put it; by default an accelerator where there is one.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return DiffusionAutoencoder.from_pretrained(name, device=device)


def train(
    data: str | Path | ImageSet,
    out: str | Path,
    *,
    preset: str | Preset = "tiny",
    size: int | None = None,
    minutes: float | None = None,
    iterations: int | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    snapshots: tuple[float, ...] = (),
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> DiffusionAutoencoder:
    """Train a diffusion autoencoder on images and nothing else; returns the averaged model, which `out` then holds.

    data: a folder, an archive (tar, zip), or an ImageSet. Channels (grey or colour) follow the images.
    preset: a name of `zsem.training.presets.PRESETS`, or a Preset of one's own.
    size: side of the images in pixels; by default the preset's.
    minutes, iterations: one of the two, counted over all resumes.
    resume: go on with the training that `out` holds, with its own configuration.
    init: a model whose weights to start from; its configuration is used.
    snapshots: minutes after which a copy of the averaged model is kept under `out`/snapshots.
    limit: use only the first images.
    say: told a line of progress now and then.
    Raises ZsemError for missing data, an `out` that is in use, a size that the networks cannot take.
    """
    out = Path(out)
    chosen = plan(out, preset, size, resume=resume, init=init)
    config = chosen.model
    images = data if isinstance(data, ImageSet) else load_images(data, size=config.image_size, limit=limit)
    if images.pixels.shape[1] != config.image_channels:
        if resume or init is not None:
            raise ZsemError(
                f"the model takes {config.image_channels} channels, the images in {data} have another number"
            )
        config = replace(config, image_channels=images.pixels.shape[1])
    training, held_out = images.split("train"), images.held_out()
    with torch.random.fork_rng():
        torch.manual_seed(chosen.training.seed)
        model = DiffusionAutoencoder(config)
    if init is not None and not resume:
        model.load_state_dict(load(init, device="cpu").state_dict())
    if not resume:
        chosen = replace(chosen, model=config)
        write_whole(out / "run.json", (json.dumps(asdict(chosen), indent=2) + "\n").encode())
    model.history = {"data": str(images.source), "train_images": len(training)}

    def measure(average: Model, everything: bool) -> None:
        assert isinstance(average, DiffusionAutoencoder)
        average.measure_codes(training.pixels if everything else training.pixels[:MEASURED_IMAGES], held_out.pixels)

    def picture(average: Model, path: Path) -> None:
        assert isinstance(average, DiffusionAutoencoder)
        sample_sheet(average, held_out.pixels[:SHOWN_IMAGES], path)

    loop = Loop(
        model, AutoencoderObjective(model, chosen.objective), chosen.training, out,
        measure=measure, picture=picture, say=say,
    )  # fmt: skip
    settings = chosen.training
    batches = Batches(
        training, batch_size=settings.batch_size, seed=settings.seed, flip=settings.flip,
        rank=loop.accelerator.process_index, world_size=loop.accelerator.num_processes,
    )  # fmt: skip
    trained = loop.run(batches, iterations=iterations, minutes=minutes, snapshots=snapshots)
    assert isinstance(trained, DiffusionAutoencoder)
    return trained


def plan(out: Path, preset: str | Preset, size: int | None, *, resume: bool, init: str | Path | None) -> Preset:
    """The configuration to train with: the run's own, the model's to start from, or the preset's."""
    stored = out / "run.json"
    if resume:
        if not stored.exists():
            raise ZsemError(f"{out} holds no training to resume; leave out --resume to begin one")
        return TypeAdapter(Preset).validate_json(stored.read_text())
    if stored.exists() or (out / "config.json").exists():
        raise ZsemError(f"{out} holds a training already; add --resume to go on with it, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ZsemError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    if init is not None:
        preset = replace(preset, model=load(init, device="cpu").config)
    if size is not None and size != preset.model.image_size:
        preset = replace(preset, model=replace(preset.model, image_size=size))
    return preset
