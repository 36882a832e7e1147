"""The models that tables and figures are made with: one resumable command trains them.

    python -m experiments.models cost [NAME ..] [--cifar10 FILE]       # what each takes on this machine
    python -m experiments.models train [NAME ..] [--cifar10 FILE]      # the same table first, then the trainings
    python -m experiments.models package NAME                          # into the package, weights in float16

Without names all are meant but those of one table alone (`ablations`). FILE: CIFAR-10 as a folder or archive of class
folders below train and test. Runs lie where `experiments.runs` says.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments.runs import CIFAR10, Recipe, cost, train, trained, trained_run

from zsem.data.images import ImageSet
from zsem.models.base import ASSETS, Model, packaged_models
from zsem.models.judge import Judge
from zsem.training.judging import judge_for
from zsem.training.presets import Preset, find_preset


def in_plain_v(preset: Preset) -> Preset:
    """A preset whose network predicts v itself."""
    return replace(preset, model=replace(preset.model, sigma_data=1.0))


@functools.cache
def recipes() -> dict[str, Recipe]:
    """All models, by name, in the order in which they are trained."""
    tiny, nano = find_preset("tiny"), in_plain_v(find_preset("nano", "diffusion"))
    classifier = find_preset("nano", "classifier")
    twin = replace(find_preset("tiny", "diffusion"), training=tiny.training)
    # as many parameters as the autoencoder's encoder and decoder have together: 12.4 and 12.2 millions
    twin_unet = replace(tiny.model.unet, channels=104, embed_channels=448)
    twin = replace(twin, model=replace(twin.model, unet=twin_unet))
    avatars, photos = "avatars-64", CIFAR10
    first = Recipe(says="avatars-64 as it begins", data=avatars, images=400_000, preset=in_plain_v(tiny))
    first_twin = Recipe(says="its twin as it begins", data=avatars, images=400_000, preset=in_plain_v(twin))
    return {
        "avatars-64": Recipe(
            says="the autoencoder that zsem comes with", data=avatars, images=100_000, preset=tiny,
            init=("avatars-64-v", first),
        ),
        "avatars-64-ddpm": Recipe(
            says="the unconditional twin of avatars-64: equal parameters, equal images seen", data=avatars,
            images=100_000, preset=twin, init=("avatars-64-ddpm-v", first_twin),
        ),
        "avatars-64-vae": Recipe(
            says="a VAE with a code of the same length", data=avatars, preset=find_preset("tiny", "vae"), images=100_000
        ),
        "cifar10-ddpm": Recipe(
            says="class-conditional, a tenth of the classes dropped", data=photos, preset=nano, images=400_000,
            conditional=True,
        ),
        "cifar10-classifier": Recipe(
            says="of noisy images, for guidance", data=photos, preset=classifier, images=200_000
        ),
        "cifar10-vae": Recipe(says="a VAE", data=photos, preset=find_preset("nano", "vae"), images=60_000),
        "cifar10-gan": Recipe(says="a GAN", data=photos, preset=find_preset("nano", "gan"), images=80_000),
    }  # fmt: skip


Z_DIMS = (32, 64, 128, 256)
"""Lengths of z in table 2."""


@functools.cache
def ablations() -> dict[str, Recipe]:
    """Models of one table alone, by name: those of table 2, which differ in the length of z.

    Their U-Net is two thirds as wide as that of `tiny`, and each sees 32,000 images: some five minutes on two cores.
    """
    tiny = find_preset("tiny")
    unet = replace(tiny.model.unet, channels=64, embed_channels=256)
    return {
        f"avatars-64-z{dims}": Recipe(
            says=f"z of {dims} numbers, for table 2", data="avatars-64", images=32_000,
            preset=replace(tiny, model=replace(tiny.model, z_dim=dims, unet=unet)),
        )
        for dims in Z_DIMS
    }  # fmt: skip


def finished(name: str, kind: type[Model] = Model) -> Any:
    """A model of these tables that is trained. ZsemError: it is not."""
    return trained({**recipes(), **ablations()}[name], name, f"python -m experiments.models train {name}", kind)


def shared_run(name: str) -> str:
    """Where a model of `recipes` is: trained here, or else one that zsem comes with. ZsemError: there is neither."""
    recipe = recipes()[name]
    if recipe.done(name) < 1 and name in packaged_models():
        return name
    return str(trained_run(recipe, name, f"python -m experiments.models train {name}"))


def class_judge(images: ImageSet, folder: Path) -> Judge:
    """A judge of clean images that tells their classes, one 0/1 attribute each; trained once, some minutes."""
    classes = images.classes.numpy()
    attributes = {name: (classes == i).astype(np.float32) for i, name in enumerate(images.class_names)}
    return judge_for(replace(images, attributes=attributes), folder, iterations=4000)


def package(name: str) -> None:
    """Put a trained model into the package, with the command that made it."""
    model, recipe = finished(name), recipes()[name]
    while recipe.init is not None:  # what it began with has seen images as well
        first, recipe = recipe.init
        earlier = trained(recipe, first, f"python -m experiments.models train {name}").history
        for key in ("iterations", "images", "minutes"):
            model.history[key] = round(model.history[key] + earlier[key], 2)
    model.history = {
        **model.history,
        "data": recipes()[name].data,
        "command": f"python -m experiments.models train {name}",
    }
    folder = model.save(ASSETS / name, dtype=torch.float16)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["cost", "train", "package"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*recipes(), *ablations()]))
    parser.add_argument("--cifar10", metavar="FILE", help="CIFAR-10 in class folders")
    arguments = parser.parse_args()
    names = arguments.names or list(recipes())
    known = {**recipes(), **({} if arguments.command == "package" else ablations())}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no model {unknown[0]!r}; choose among {', '.join(known)}")
    if arguments.command == "package":
        for name in names:
            package(name)
        return
    chosen = {name: known[name] for name in names}
    cost(chosen, arguments.cifar10)
    if arguments.command == "train":
        train(chosen, arguments.cifar10)


if __name__ == "__main__":
    main()
