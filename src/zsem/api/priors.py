"""Priors of a model's codes: `fit_prior` one to images, `load_prior` it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.api.loading import load
from zsem.data.images import ImageSet, load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import find_model, read_config
from zsem.models.imaging import Progress
from zsem.models.mixture import LatentMixture
from zsem.models.prior import Prior
from zsem.training.callbacks import Callback
from zsem.training.course import time_goal
from zsem.training.images import Source
from zsem.training.latent import train_latent
from zsem.training.machine import default_device
from zsem.training.plan import Plan, stored_plan
from zsem.training.presets import Preset, find_prior
from zsem.values.errors import ZsemError
from zsem.values.files import read_tensors, write_whole

PriorKind = Literal["mixture", "ddim"]
FOLDER = "prior"
"""Where a run keeps its prior."""
CODES = "codes"
"""Where a run keeps the codes that priors were fitted to."""
ENCODED_AT_ONCE = 64


def fit_prior(
    run: str | Path,
    data: Source,
    *,
    kind: PriorKind = "mixture",
    out: str | Path | None = None,
    preset: str | Preset = "small",
    minutes: float | None = None,
    iterations: int | None = None,
    resume: bool = False,
    limit: int | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Prior:
    """Fit a prior to the codes of an autoencoder's training images; it is then what `out` holds.

    data: the images that the autoencoder was trained on. They are encoded once, as they are, and their codes kept in
        RUN/codes, for other priors and resumes.
    kind: "mixture", a Gaussian mixture (seconds), or "ddim", the latent DDIM of the paper.
    out: a folder in place of RUN/prior.
    preset, minutes, iterations, callbacks: of the latent DDIM; a name of `zsem.training.presets.PRIORS`, or a Preset.
    resume: go on with the training of a latent DDIM that `out` holds, with its own settings and limit.
    limit: use at most so many training images. seed: of the mixture's fit; that of a latent DDIM is in its preset.
    say: told a line of progress now and then. progress: called with (images encoded, images in all).
    The history of the result has its figures on held-out images: of a mixture "held_out", the mean log-likelihood of
    raw codes in nats; of a latent DDIM "validation", its loss.
    Raises ZsemError where there are no such images or none are held out, or `out` holds what would be lost.
    """
    if kind == "ddim":
        time_goal(iterations, minutes)
    out = prior_folder(run, out)
    plan = plan_for(out, kind, preset, limit, resume)
    model = load(run, kind=DiffusionAutoencoder)
    images = images_of(model, data)
    training, held_out = images.split("train").limit(plan.limit), images.held_out()
    if len(training) == 0:
        raise ZsemError(f"{images.source} has no training images, which a prior is fitted to: give those of {run}")
    key = checksum(model, training)
    if resume and plan.images != key:
        raise ZsemError("the training to resume was of other images or another model: take the same, or another --out")
    cache = (Path(run) if Path(run).is_dir() else out) / CODES
    z, judged = (kept_codes(model, part, cache, progress) for part in (training, held_out))
    history = {"model": model.stamp, "data": str(images.source), "train_images": len(training)}
    if kind == "ddim":
        forget_mixture(out)
        plan = Plan(preset=plan.preset, limit=plan.limit, images=key)
        return train_latent(
            z, judged, plan, out, minutes=minutes, iterations=iterations, history=history, callbacks=callbacks, say=say
        )
    prior = LatentMixture.fit(z, seed=seed)
    likelihood = prior.log_prob(judged.double())
    prior.history |= {
        **history, "held_out": {"n": len(judged), "log_likelihood": float(likelihood.mean()),
                                "standard_error": float(likelihood.std() / len(judged) ** 0.5)},
    }  # fmt: skip
    prior.save(out)
    return prior


def load_prior(run: str | Path, folder: str | Path | None = None, *, device: str | torch.device | None = None) -> Prior:
    """The prior of a model: of a run folder, one that zsem comes with, or on the Hugging Face hub.

    folder: where it is, in place of RUN/prior. device: by default an accelerator where there is one.
    Raises ZsemError where there is none, or it is damaged.
    """
    place = find_model(run) / FOLDER if folder is None else Path(folder)
    if not (place / "config.json").exists():
        raise ZsemError(f"{place} holds no prior to draw codes from: fit one with `zsem prior {run} DATA`")
    return Prior.from_pretrained(place, device=default_device() if device is None else device)


def prior_folder(run: str | Path, out: str | Path | None) -> Path:
    """Where a prior goes. Raises ZsemError where the model is no folder here and no other is named."""
    if out is not None:
        return Path(out)
    if not Path(run).is_dir():
        raise ZsemError(f"{run} is no folder here to write to: name one with --out")
    return Path(run) / FOLDER


def plan_for(out: Path, kind: PriorKind, preset: str | Preset, limit: int | None, resume: bool) -> Plan[Any, Any]:
    """How the prior is to be made. Raises ZsemError where `out` holds what would be lost, or nothing to resume."""
    if resume:
        if kind != "ddim":
            raise ZsemError("a mixture is fitted at once and has nothing to resume: leave out --resume")
        return stored_plan(out)
    if (out / "run.json").exists():
        raise ZsemError(f"{out} holds the training of a latent DDIM; add --resume to go on with it, or give --out")
    there = read_config(out)["kind"] if (out / "config.json").exists() else LatentMixture.kind
    if there != LatentMixture.kind:
        raise ZsemError(f"{out} holds a {there}, which would be lost: give another folder with --out")
    return Plan(preset=preset if isinstance(preset, Preset) else find_prior(preset), limit=limit)


def forget_mixture(out: Path) -> None:
    """Remove a mixture, which seconds bring back, so that its config never stands beside weights of another kind."""
    if (out / "config.json").exists() and read_config(out)["kind"] == LatentMixture.kind:
        for name in ("config.json", "model.safetensors"):
            (out / name).unlink(missing_ok=True)


def images_of(model: DiffusionAutoencoder, data: Source) -> ImageSet:
    """Images split as the training of the model has split them."""
    if isinstance(data, ImageSet):
        return data
    config = model.config
    return load_images(
        data, size=config.image_size, channels=config.image_channels, depth=config.intensity.depth,
        background=config.background, group=model.history.get("group"),
    )  # fmt: skip


def checksum(model: DiffusionAutoencoder, images: ImageSet) -> str:
    """What the codes of these images by this model are called."""
    digest = hashlib.sha256(model.stamp.encode())
    digest.update(images.pixels.numpy().data)
    return digest.hexdigest()


def kept_codes(
    model: DiffusionAutoencoder, images: ImageSet, folder: Path, progress: Progress | None = None
) -> Float[Tensor, "n d"]:
    """z of images as they are, from a file of `folder` where they were encoded before."""
    path = folder / f"z-{checksum(model, images)[:16]}.safetensors"
    if path.exists():
        z = read_tensors(path, "delete it, and the images are encoded again")["z"]
        if z.shape == (len(images), model.config.z_dim):
            return z
    z = model.encode(images, noise=False, batch_size=ENCODED_AT_ONCE, progress=progress).z
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, safetensors.torch.save({"z": z.contiguous()}))
    return z
