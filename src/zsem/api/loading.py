"""Models from run folders, the hub, and foreign checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch

from zsem.interop.conventions import GUESS, Options
from zsem.interop.importing import Imported, is_foreign, read_models
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model, ModelT
from zsem.training.machine import default_device
from zsem.values.direction import save_directions
from zsem.values.errors import ZsemError


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
        found.prior.history["model"] = model.stamp
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
