"""Averages of the weights over other lengths, after a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from zsem.api.loading import load
from zsem.api.watching import Watch
from zsem.models.base import Model
from zsem.models.gan import GenerativeAdversarialNetwork
from zsem.training import posthoc
from zsem.training.ema import WIDEST
from zsem.training.families import FAMILIES
from zsem.training.images import Source
from zsem.training.plan import images_for, stored_plan
from zsem.values.errors import ZsemError

CHOICE_IMAGES = 128  # held-out images by which the length of an average is chosen
WIDTHS = (0.05, 0.07, 0.1, 0.14, 0.2, 0.25)  # lengths that are tried then


def choose_average(
    run: str | Path,
    *,
    sigma_rel: float | None = None,
    data: Source | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Model:
    """The model of a run with its weights averaged over another length, chosen after the training (EDM2, section 3).

    sigma_rel: relative width of the average, between 0 and 0.28; None takes the one of `WIDTHS` with the least loss on
        held-out images.
    data: the images of the training; by default where they were then.
    out: folder for the model; by default `run`/ema/`sigma_rel`.
    say: told the loss of each width.
    Raises ZsemError where the run has no checkpoint, the images are others, or no average has that width.
    """
    run = Path(run)
    if not (run / "run.json").exists():
        raise ZsemError(f"{run} is no folder of a training, as it has no run.json: name one that `zsem train` wrote")
    plan = stored_plan(run)
    model = load(run, kind=FAMILIES[plan.preset.kind].model)
    if sigma_rel is not None and not 0 < sigma_rel < WIDEST:
        raise ZsemError(f"an average's relative width must lie between 0 and {WIDEST}, not {sigma_rel:g}")
    if sigma_rel is None and isinstance(model, GenerativeAdversarialNetwork):
        raise ZsemError("a GAN's loss does not tell which average makes better images: say which with --sigma-rel")
    images, plan = images_for(model.history["data"] if data is None else data, plan, resume=True)
    kept, watch = posthoc.sources(run), Watch(images, plan, say)
    tried: dict[float, dict[str, float]] = {}
    for width in WIDTHS if sigma_rel is None else (sigma_rel,):
        distance = use_average(model, kept, width)
        loss = watch.loss(model, CHOICE_IMAGES)
        tried[width] = {"loss": loss, "distance": distance}
        say(f"sigma_rel {width:g}: validation loss {loss:.5f}")
    best = min(tried, key=lambda width: tried[width]["loss"])
    use_average(model, kept, best)
    model.history["ema"] = {"sigma_rel": best, "tried": {f"{width:g}": tried[width] for width in tried}}
    model.history["validation"] = watch.figures(model)
    watch.measure(model, everything=True)
    model.save(run / "ema" / f"{best:g}" if out is None else out)
    return model


def use_average(model: Model, kept: list[posthoc.Source], sigma_rel: float | int) -> float:
    """Put the average of that width into `model`; returns how far its profile is from the wanted one, relatively."""
    parameters = dict(model.named_parameters())
    weights, distance = posthoc.reconstruct(kept, sigma_rel, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return distance
