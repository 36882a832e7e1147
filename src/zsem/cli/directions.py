"""`zsem directions`: directions of attributes, or of no name, as small files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from tyro.conf import Positional, arg

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


@dataclass(frozen=True, kw_only=True)
class Directions(Command):
    """Write directions in z as small files that carry the stamp of their model.

    logistic (DiffAE's), mean (difference of mean codes) and constrained (least leakage) are of attributes: those that
    `zsem attributes` has learned, or with DATA those that its labels tell. pca needs DATA, sefa nothing but the model.
    The table has the length of an amount of 1 in sigma, and how much other attributes are expected to change for one of
    its own, by probes of other images.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained autoencoder, or its name on the Hugging Face hub"""
    data: Annotated[Positional[str | None], arg(metavar="[DATA]")] = None
    """folder or archive of images whose training split is used"""
    method: Literal["logistic", "mean", "constrained", "pca", "sefa"] = "constrained"
    """how directions are found"""
    attribute: Annotated[str | None, arg(metavar="NAME,..")] = None
    """attributes, all by default"""
    keep: Annotated[str | None, arg(metavar="NAME,..")] = None
    """attributes that must not change"""
    components: int = 10
    """how many directions of pca and sefa"""
    annotations: Annotated[str | None, arg(metavar="FILE")] = None
    """labels of DATA in CelebA's format, as for `zsem attributes`"""
    limit: int = 1000
    """images of DATA to use at most"""
    semantics: Annotated[str | None, arg(metavar="DIR")] = None
    """what `zsem attributes` has written, in place of RUN/semantics"""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """folder for the files, in place of RUN/semantics/directions"""

    def run(self) -> Report:
        from zsem.values.direction import save_directions

        self._check()
        out = semantics_folder(self.model, None) / "directions" if self.out is None else Path(self.out)
        model = open_autoencoder(self.model)
        if self.method in ATTRIBUTE_METHODS:
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
            figures={"method": self.method, "directions": figures, "out": str(out)},
            rows=rows,
            notes=[f"files in {out}"],
        )

    def _check(self) -> None:
        """Raise ZsemError for what cannot be, whatever the model."""
        if self.limit < 4:
            raise ZsemError(f"--limit must be at least 4, not {self.limit}")
        if self.method in ATTRIBUTE_METHODS:
            return
        if self.method == "pca" and self.data is None:
            raise ZsemError("pca looks at codes of images: name DATA after RUN")
        for name in ("attribute", "keep"):
            if getattr(self, name) is not None:
                raise ZsemError(
                    f"--{name} is for directions of attributes, and {self.method} finds such without a name"
                )

    def _file(self, name: str) -> str:
        """The name of a file, safe as a path: what follows the last dot is cut off later."""
        safe = name.replace("/", "-").replace("\\", "-")
        return f"{safe}-{self.method}.safetensors" if self.method in ATTRIBUTE_METHODS else f"{safe}.safetensors"

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
        images = labelled_part(found.images).limit(self.limit)
        say(f"z of {len(images)} labelled images")
        z = model.encode(images, noise=False, batch_size=64).z
        return learn(z, images.attributes, model, classes=found.classes, groups=images.groups or None)

    def _of_attributes(self, semantics: Semantics) -> list[tuple[Direction, float, float | None]]:
        """Directions with their lengths and the leakage that is expected, which is not known where some are kept."""
        keep, method = names_in(self.keep), cast("Method", self.method)
        names = names_in(self.attribute) or [name for name in semantics.attributes if name not in keep]
        found = [(name, semantics.direction(name, method, keep)) for name in names]
        return [(d, semantics.sigma(d), None if keep else semantics.leakage(name, method)) for name, d in found]

    def _components(self, model: DiffusionAutoencoder) -> list[tuple[Direction, float | None, None]]:
        """Directions of pca or sefa, with their lengths where codes of images are there to measure them."""
        from zsem.semantics.directions import entry_weights, lengths, pca, sefa, shrunk_covariance
        from zsem.semantics.probes import to_float64

        codes = None if self.data is None else self._codes(model, self.data)
        covariance = None if codes is None else shrunk_covariance(codes)
        if codes is not None and self.method == "pca":
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

        images = open_images(data, model, split="train", limit=self.limit)
        say(f"z of {len(images)} images")
        z = to_float64(model.encode(images, noise=False, batch_size=64).z)
        return (z - to_float64(model.z_mean)) / to_float64(model.z_std)


def names_in(text: str | None) -> list[str]:
    """Names between commas."""
    return [] if text is None else [name.strip() for name in text.split(",") if name.strip()]


def text(value: str | float | None) -> str:
    """A cell of the table."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.3f}"
