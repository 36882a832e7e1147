"""`zsem directions`: directions of attributes, or of no name, as small files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.attributes import say, semantics_folder
from zsem.cli.command import Command, Report
from zsem.cli.images import file_stems, open_autoencoder, open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    import numpy as np

    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.semantics.attributes import Method, Semantics
    from zsem.values.direction import Direction

ATTRIBUTE_METHODS = ("logistic", "mean", "constrained")
ASYRP_ALONE = ("embedding", "texts", "variant", "iterations", "minutes", "t_edit")
HSPACE_ALONE = ("steps", "timestep", "mask", "tolerance", "pooled", "average", "separate", "judge", "ends", "seed")
LIMIT = 1000
"""Images to use at most, where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Directions(Command):
    """Write directions as small files that carry the stamp of their model, for `zsem edit --direction`.

    In z: logistic (DiffAE's), mean (difference of mean codes) and constrained (least leakage) are of attributes: those
    that `zsem attributes` has learned, or with DATA those that its labels tell. pca needs DATA, sefa nothing but the
    model. The table has the length of an amount of 1 in sigma, and how much other attributes are expected to change for
    one of its own, by probes of other images.

    In h, the bottleneck of any diffusion model: mean (difference of mean h with and without an attribute, at every
    timestep) and boundary (of a linear probe at one timestep; readings.json says at which the attribute can be read)
    need labelled DATA; pca takes DATA, or samples; jacobian (what changes images most) some image of DATA. jacobian
    with --space x gives directions in the noisy image, with --mask local ones. asyrp trains a network on DATA for each
    attribute, towards what an embedding takes for more of it, in a folder that `zsem edit` takes like a file.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained autoencoder (for h and x of any diffusion model), or its name on the Hugging Face hub"""
    data: Annotated[Positional[str | None], arg(metavar="[DATA]")] = None
    """folder or archive of images whose training split is used"""
    space: Literal["z", "h", "x"] = "z"
    """of the semantic codes, of the bottleneck, or of the noisy image at one timestep"""
    method: Literal["logistic", "mean", "constrained", "pca", "sefa", "boundary", "jacobian", "asyrp"] | None = None
    """how directions are found; by default constrained in z, mean in h, jacobian in x"""
    attribute: Annotated[str | None, arg(metavar="NAME,..")] = None
    """attributes, all by default"""
    keep: Annotated[str | None, arg(metavar="NAME,..")] = None
    """attributes that must not change"""
    components: int = 10
    """how many directions of pca, sefa and jacobian"""
    annotations: Annotated[str | None, arg(metavar="FILE")] = None
    """labels of DATA in CelebA's format, as for `zsem attributes`"""
    limit: int | None = None
    """images of DATA to use at most, or samples to make: by default 1000, for jacobian 1, for asyrp 200"""
    semantics: Annotated[str | None, arg(metavar="DIR")] = None
    """what `zsem attributes` has written, in place of RUN/semantics"""
    steps: int = 19
    """in h and x: noise levels, on the way to --timestep where that is given to jacobian"""
    timestep: int | None = None
    """in h and x: of jacobian (by default six tenths of all), and of boundary (by default where it reads best)"""
    mask: Annotated[str | None, arg(metavar="FILE")] = None
    """of jacobian: picture of where images are to change (white)"""
    tolerance: float = 1e-3
    """of jacobian: the residual, as a share of the largest singular value, at which the search ends"""
    pooled: FlagCreatePairsOff[bool] = False
    """in h: directions that are the same at all places of the map"""
    average: FlagCreatePairsOff[bool] = False
    """of mean in h: one direction for all timesteps, the mean over them"""
    separate: FlagCreatePairsOff[bool] = False
    """of pca in h: components of every timestep for itself, not of all together"""
    judge: Annotated[str | None, arg(metavar="DIR")] = None
    """of mean in h without DATA: folder of a network that scores samples, of which --ends at either end are compared"""
    ends: int = 20
    """how many samples the judge puts first, and last"""
    seed: int = 0
    """of samples, folds, and where the search of jacobian starts"""
    embedding: Annotated[str | None, arg(metavar="KIND:..")] = None
    """of asyrp: what says which way to go: autoencoder:RUN2 (a probe of `zsem attributes` in its z; by default RUN's
    own), classifier:RUN3, clip:PATH with --texts, or images:A,B (from one folder to another)"""
    texts: Annotated[tuple[str, str] | None, arg(metavar="SOURCE TARGET")] = None
    """of asyrp with CLIP: what images show and what they are to show, e.g. face and smiling face"""
    variant: Literal["corrected", "published"] = "corrected"
    """of asyrp: our recipe, or that of the paper's code"""
    iterations: int | None = None
    """of asyrp: how long to train, by default 150, published 1000"""
    minutes: float | None = None
    """of asyrp: how long to train"""
    t_edit: int | None = None
    """of asyrp: last timestep that is edited; by default by RUN/hspace/intervals.json, or the size of the images"""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """folder for the files, in place of RUN/semantics/directions, or RUN/hspace/directions for h and x"""

    def run(self) -> Report:
        from zsem.values.direction import save_directions

        if self.space != "z":
            from zsem.cli.hspace_directions import find

            return find(self)
        self._check()
        out = semantics_folder(self.model, None) / "directions" if self.out is None else Path(self.out)
        model = open_autoencoder(self.model)
        if self._method in ATTRIBUTE_METHODS:
            semantics = self._semantics(model)
            found = self._of_attributes(semantics)
        else:
            found = self._components(model)
        stems = file_stems([self._file(direction.name) for direction, _, _ in found], len(found))
        for (direction, _, _), stem in zip(found, stems, strict=True):
            save_directions(out / f"{stem}.safetensors", [direction])
        figures = [
            {"name": d.name, "unit": d.unit, "sigma": sigma, "leakage": leakage, "file": f"{stem}.safetensors"}
            for (d, sigma, leakage), stem in zip(found, stems, strict=True)
        ]
        rows = [{name: text(value) for name, value in row.items()} for row in figures]
        return Report(
            figures={"method": self._method, "directions": figures, "out": str(out)},
            rows=rows,
            notes=[f"files in {out}"],
        )

    def _check(self) -> None:
        """Raise ZsemError for what cannot be, whatever the model."""
        if self._limit < 4:
            raise ZsemError(f"--limit must be at least 4, not {self._limit}")
        if self._method not in (*ATTRIBUTE_METHODS, "pca", "sefa"):
            raise ZsemError(f"{self._method} finds directions in h or x: say --space h")
        if given := changed(self, (*HSPACE_ALONE, *ASYRP_ALONE)):
            raise ZsemError(f"--{given[0]} is for directions in h and x: say --space h, or leave it out")
        if self._method in ATTRIBUTE_METHODS:
            return
        if self._method == "pca" and self.data is None:
            raise ZsemError("pca looks at codes of images: name DATA after RUN")
        for name in ("attribute", "keep"):
            if getattr(self, name) is not None:
                raise ZsemError(
                    f"--{name} is for directions of attributes, and {self._method} finds such without a name"
                )

    @property
    def _method(self) -> str:
        return self.method or "constrained"

    @property
    def _limit(self) -> int:
        return LIMIT if self.limit is None else self.limit

    def _file(self, name: str) -> str:
        """The name of a file, safe as a path: what follows the last dot is cut off later."""
        safe = name.replace("/", "-").replace("\\", "-")
        return f"{safe}-{self._method}.safetensors" if self._method in ATTRIBUTE_METHODS else f"{safe}.safetensors"

    def _semantics(self, model: DiffusionAutoencoder) -> Semantics:
        """Learned from DATA, else what is there."""
        from zsem.data.annotations import with_labels
        from zsem.evaluation.attributes import labelled_part
        from zsem.models.base import find_model
        from zsem.semantics.attributes import Semantics, learn

        if self.data is None:
            folder = Path(self.semantics) if self.semantics else find_model(self.model) / "semantics"
            return Semantics.load(folder, model)
        found = with_labels(open_images(self.data, model, split="train"), self.annotations)
        images = labelled_part(found.images).limit(self._limit)
        say(f"z of {len(images)} labelled images")
        z = model.encode(images, noise=False, batch_size=64).z
        return learn(z, images.attributes, model, classes=found.classes, groups=images.groups or None)

    def _of_attributes(self, semantics: Semantics) -> list[tuple[Direction, float, float | None]]:
        """Directions with their lengths and the leakage that is expected, which is not known where some are kept."""
        keep, method = names_in(self.keep), cast("Method", self._method)
        names = names_in(self.attribute) or [name for name in semantics.attributes if name not in keep]
        found = [(name, semantics.direction(name, method, keep)) for name in names]
        return [(d, semantics.sigma(d), None if keep else semantics.leakage(name, method)) for name, d in found]

    def _components(self, model: DiffusionAutoencoder) -> list[tuple[Direction, float | None, None]]:
        """Directions of pca or sefa, with their lengths where codes of images are there to measure them."""
        from zsem.semantics.directions import entry_weights, lengths, pca, sefa, shrunk_covariance
        from zsem.semantics.probes import to_float64

        codes = None if self.data is None else self._codes(model, self.data)
        covariance = None if codes is None else shrunk_covariance(codes)
        if codes is not None and self._method == "pca":
            found = pca(codes, self.components, model=model.stamp)
        else:
            weights = entry_weights(model.unet, model.z_mean, model.z_std)
            found = sefa(weights, self.components, covariance=covariance, model=model.stamp)
        if covariance is None:
            return [(direction, None, None) for direction in found]
        return [(d, float(lengths(to_float64(d.vector)[None], covariance)[0]), None) for d in found]

    def _codes(self, model: DiffusionAutoencoder, data: str) -> np.ndarray:
        """Normalised z of training images."""
        from zsem.semantics.probes import to_float64

        images = open_images(data, model, split="train", limit=self._limit)
        say(f"z of {len(images)} images")
        z = to_float64(model.encode(images, noise=False, batch_size=64).z)
        return (z - to_float64(model.z_mean)) / to_float64(model.z_std)


def changed(command: Command, names: Sequence[str]) -> list[str]:
    """Those options of a command that are not at their defaults, as they are written."""
    defaults = {field.name: field.default for field in fields(command)}
    return [name.replace("_", "-") for name in names if getattr(command, name) != defaults[name]]


def names_in(text: str | None) -> list[str]:
    """Names between commas."""
    return [] if text is None else [name.strip() for name in text.split(",") if name.strip()]


def text(value: str | float | None) -> str:
    """A cell of the table."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.3f}"
