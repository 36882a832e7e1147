"""The priors that tables draw z from: fitted once to the z of all training faces and kept, as models are."""

from __future__ import annotations

import json
from dataclasses import replace

from experiments.runs import RUNS
from experiments.tables import Faces

from zsem import api
from zsem.diffusion.losses import ErrorKind
from zsem.models.mixture import LatentMixture
from zsem.models.prior import LatentDiffusion
from zsem.training.presets import Preset, find_prior, preset_settings

SMALL = find_prior("small")
ITERATIONS = (SMALL.recommended_images or 0) // SMALL.training.batch_size
QUICK_ITERATIONS = 20


def latent_preset(layers: int, error: ErrorKind) -> Preset:
    """`small` with so many layers and this error."""
    net = replace(SMALL.model.net, layers=layers)
    return replace(
        SMALL, model=replace(SMALL.model, net=net), objective=replace(SMALL.objective, error=error)
    )  # fmt: skip


def latent_ddim(faces: Faces, preset: Preset, *, quick: bool) -> LatentDiffusion:
    """A latent DDIM of the autoencoder's z, trained where it is not yet; a stopped training goes on.

    quick: train it for next to nothing, to see that everything works.
    """
    iterations = QUICK_ITERATIONS if quick else ITERATIONS
    stamp = faces.stamp(faces.autoencoder, preset=preset_settings(preset), iterations=iterations)
    folder = RUNS / f"latent-ddim-{stamp}"
    config = folder / "config.json"
    if config.exists() and json.loads(config.read_text())["history"]["iterations"] >= iterations:
        return api.load(folder, kind=LatentDiffusion)
    found = api.fit_prior(
        faces.run("autoencoder"), faces.images, kind="ddim", out=folder, preset=preset, iterations=iterations,
        resume=(folder / "run.json").exists(), say=lambda line: print(f"{folder.name}: {line}", flush=True),
    )  # fmt: skip
    if found.history["iterations"] < iterations:  # the loop ends orderly where a signal asks it to
        raise SystemExit(f"{folder.name} was stopped; the same command goes on with it")
    assert isinstance(found, LatentDiffusion)
    return found


def mixture(faces: Faces) -> LatentMixture:
    """The mixture of the autoencoder's z."""
    folder = RUNS / f"latent-mixture-{faces.stamp(faces.autoencoder)}"
    if not (folder / "config.json").exists():
        api.fit_prior(faces.run("autoencoder"), faces.images, kind="mixture", out=folder)
    return api.load(folder, kind=LatentMixture)
