"""Training of the latent DDIM on codes that were encoded before, by the loop that trains everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.data.batches import Batches
from zsem.models.base import Model
from zsem.models.denoising import LatentObjective
from zsem.models.prior import LatentDiffusion
from zsem.training.callbacks import Callback
from zsem.training.loop import Loop
from zsem.training.plan import Plan
from zsem.training.validation import validate_latent
from zsem.values.files import write_whole


def train_latent(
    z: Float[Tensor, "n d"],
    held_out: Float[Tensor, "m d"],
    plan: Plan[LatentDiffusion.Config, LatentObjective.Config],
    folder: Path,
    *,
    minutes: float | None = None,
    iterations: int | None = None,
    history: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    say: Callable[[str], None] = print,
) -> LatentDiffusion:
    """Train a latent DDIM on raw codes, or go on with the training that `folder` holds; returns the averaged model.

    z: of the training images; the model normalises them by their mean and standard deviation.
    held_out: of images that the encoder was not trained on either, for the validation loss.
    plan: the settings, which are written to `folder`/run.json; the network is made as long as the codes.
    minutes, iterations: one of the two, counted over all resumes. history: what the model is to remember.
    Raises ZsemError as `Loop` does.
    """
    config, settings = replace(plan.preset.model, z_dim=z.shape[1]), plan.preset.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = LatentDiffusion(config)
    model.z_mean.copy_(z.mean(0))
    model.z_std.copy_(z.std(0, correction=0).clamp_min(1e-8))
    model.history = dict(history or {})
    goal, judged = plan.preset.objective, held_out[: settings.validation_images]

    def measure(average: Model, everything: bool) -> None:
        """The statistics of codes are those of the training codes, and known from the start."""

    def picture(average: Model, path: Path) -> None:
        """Codes are no pictures."""

    def validate(average: Model) -> dict[str, Any]:
        assert isinstance(average, LatentDiffusion)
        return asdict(validate_latent(average, judged, goal.weighting, goal.error))

    loop = Loop(
        model, LatentObjective(model, goal), settings, folder,
        measure=measure, picture=picture, validate=validate, say=say,
    )  # fmt: skip
    if loop.main:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "run.json", plan.text().encode())
    batches = Batches(
        z[:, :, None, None], batch_size=settings.batch_size, seed=settings.seed,
        rank=loop.accelerator.process_index, world_size=loop.accelerator.num_processes,
    )  # fmt: skip
    trained = loop.run(batches, minutes=minutes, iterations=iterations, callbacks=callbacks)
    assert isinstance(trained, LatentDiffusion)
    return trained
