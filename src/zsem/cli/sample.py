"""`zsem sample`: new images out of noise, of chosen classes, with chosen attributes, and under guidance."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report, named_numbers, progress
from zsem.cli.images import SHOWN, chunks, file_stems, save_images, save_picture
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zsem.data.intensity import Intensity
    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.models.classifier import NoisyClassifier
    from zsem.models.diffusion import DiffusionModel

ROWS = 16
"""Rows of the picture at most that each show one class; more classes are shown one after the other."""
COLUMNS = 32
"""Steps of progressive.png at most, evenly spread."""
PAIRS = 4
"""Rows of slerp.png."""
FOR_ALL = {"json", "model", "out", "number", "seed", "batch_size"}
"""What `zsem sample` takes for models of any kind."""
FOR_WALKS = {"solver", "steps", "spacing", "cleanest", "eta", "no_clip"}
"""What it takes for diffusion models and autoencoders."""
FOR_CODES = {"where", "semantics", "method", "condition_scale", "truncation", "prior", "prior_solver", "prior_steps"}
"""What it takes for autoencoders alone."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which classes to make, in turn; nothing for a model without classes."""

    indices: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def of(self, images: range) -> list[int] | None:
        """The class of every image."""
        return [self.indices[i % len(self.indices)] for i in images] if self.indices else None

    def stems(self, images: range) -> list[str]:
        """Where every image is saved: by its number, in a folder of its class."""
        names = [f"{self.names[i % len(self.names)]}/" if self.names else "" for i in images]
        return file_stems([f"{name}{i:06d}.png" for name, i in zip(names, images, strict=True)], len(images))

    def rows(self, number: int) -> tuple[list[range], list[str] | None]:
        """The images of every row of the picture, and what is written beside them."""
        if 1 < len(self.indices) <= ROWS:
            step = len(self.indices)
            rows = [range(i, min(number, step * SHOWN), step) for i in range(min(step, number))]
            return rows, list(self.names[: len(rows)])
        return [range(i, min(i + SHOWN, number)) for i in range(0, min(number, SHOWN**2), SHOWN)], None


@dataclass(frozen=True, kw_only=True)
class Sample(Command):
    """Make new images; each depends on the seed, its number and the settings, not on how many are made.

    Writes the images to the folder images below DIR, in folders of their classes where there are some, and the first
    of them to sample.png. An autoencoder draws z from its prior, which `zsem prior` fits, and decodes it.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model (autoencoder, diffusion, vae or gan), or its name on the Hugging Face hub"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for the picture and the images, in the model's depth: PNG, else TIFF or npy"""
    number: Annotated[int, arg(aliases=["-n"])] = 64
    """images to make"""
    seed: int = 0
    """seed of the noise"""
    batch_size: int = 16
    """images that are made at once"""
    classes: Annotated[str | None, arg(metavar="NAME,..")] = None
    """names or indices of classes, made in turn; by default all of the model, or of the classifier that guides it"""
    guidance_scale: float = 1.0
    """how far to extrapolate from no class to the class: 1 = none; for models trained with class_dropout"""
    guidance_rescale: float = 0.0
    """0..1, how far the contrast of extrapolated predictions is pulled back"""
    guidance_interval: Annotated[tuple[float, float] | None, arg(metavar="FIRST LAST")] = None
    """first and last timestep at which guidance of any kind acts; all of them without"""
    classifier: Annotated[str | None, arg(metavar="RUN2")] = None
    """classifier of noisy images that guides towards the classes"""
    classifier_scale: Annotated[float | None, arg(metavar="FLOAT")] = None
    """how much it guides: 0 = none, 1 by default"""
    classifier_form: Literal["score", "mean"] = "score"
    """add its gradient to eps (any solver), or to the mean of the steps of ddpm"""
    solver: str = "unipc"
    """unipc, dpmpp_2m, heun, ddim, or ddpm (ancestral: hundreds of steps, spacing uniform)"""
    steps: int = 20
    """noise levels to visit"""
    spacing: Literal["logsnr", "uniform", "trailing", "karras"] = "logsnr"
    """how they are spread"""
    cleanest: int = 0
    """least timestep to visit; the images are what is predicted there, without the grain that small models add below"""
    eta: float = 0.0
    """share of fresh noise in the steps of ddim, 0..1"""
    no_clip: FlagCreatePairsOff[bool] = False
    """leave predictions outside [-1, 1] as they are"""
    progressive: FlagCreatePairsOff[bool] = False
    """draw what the first images are expected to be after every step, to progressive.png"""
    slerp: Annotated[int | None, arg(metavar="K")] = None
    """draw K images between two by spherical interpolation of their x_T, for some pairs, to slerp.png"""
    where: Annotated[str | None, arg(metavar="NAME=1,..")] = None
    """autoencoders: attributes that all images must have (1) or not have (0), e.g. smile=1,glasses=0"""
    semantics: Annotated[str | None, arg(metavar="DIR")] = None
    """autoencoders: where `zsem attributes` wrote what it learned; by default RUN/semantics"""
    method: Literal["auto", "rejection", "tilt", "guidance"] = "auto"
    """autoencoders: how --where is met; rejection and tilt (mixtures) are exact, guidance (latent DDIMs) is quick"""
    condition_scale: float = 1.0
    """autoencoders: strength of that guidance"""
    truncation: float = 1.0
    """autoencoders: 0..1, how far z may be from what is typical: 1 = as far as in the data"""
    prior: Annotated[str | None, arg(metavar="DIR")] = None
    """autoencoders: where the prior is; by default RUN/prior"""
    prior_solver: str = "ddim"
    """autoencoders: solver of a latent DDIM"""
    prior_steps: int = 100
    """autoencoders: its noise levels"""

    def run(self) -> Report:
        from zsem import api
        from zsem.models.autoencoder import DiffusionAutoencoder
        from zsem.models.baseline import LatentVariableModel
        from zsem.models.diffusion import DiffusionModel

        self._check()
        model = api.load(self.model)
        if isinstance(model, DiffusionModel):
            self._refuse(model.kind, {field.name for field in fields(self)} - FOR_CODES)
            return self._from_diffusion(model)
        if isinstance(model, DiffusionAutoencoder):
            self._refuse(model.kind, FOR_ALL | FOR_WALKS | FOR_CODES | {"guidance_scale"})
            return self._from_autoencoder(model)
        if not isinstance(model, LatentVariableModel):
            raise ZsemError(f"{self.model} is a model of kind {model.kind!r}, which does not make images out of noise")
        self._refuse(model.kind, FOR_ALL)

        def make(images: range) -> Tensor:
            return model.sample(len(images), seed=self.seed, first=images.start, batch_size=self.batch_size)

        return self._report(self._write(make, Wanted(), model.config.intensity), {"nfe": 1})

    def _check(self) -> None:
        """Raise ZsemError for what cannot be, whatever the model."""
        for name, least in (("number", 1), ("batch_size", 1), ("seed", 0), ("slerp", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ZsemError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
        if self.slerp is not None and (self.solver == "ddpm" or self.eta > 0):
            raise ZsemError("--slerp needs a solver without fresh noise, or neighbours differ by more than their x_T")

    def _refuse(self, kind: str, taken: Collection[str]) -> None:
        """Raise ZsemError for an option that is given and not among those that models of this kind take."""
        given = [field for field in fields(self) if getattr(self, field.name) != field.default]
        for name in (field.name for field in given if field.name not in taken):
            others = "autoencoders" if name in FOR_CODES else "diffusion models"
            others += " and autoencoders" if name in FOR_WALKS else ""
            raise ZsemError(
                f"--{name.replace('_', '-')} is for {others} alone, and {self.model} is a {kind}: leave it out"
            )

    def _from_autoencoder(self, model: DiffusionAutoencoder) -> Report:
        from zsem.models.walking import Walking

        walking = Walking(
            solver=self.solver,
            steps=self.steps,
            spacing=self.spacing,
            cleanest=self.cleanest,
            eta=self.eta,
            clip=not self.no_clip,
        )
        started = time.perf_counter()
        z = self._drawn(model)
        seconds = time.perf_counter() - started

        def make(images: range) -> Tensor:
            return model.decode(
                model.codes(z[images.start : images.stop]), seed=self.seed, first=images.start, walking=walking,
                guidance_scale=self.guidance_scale, batch_size=self.batch_size,
            )  # fmt: skip

        with counted(model.unet) as nfe:
            seconds += self._write(make, Wanted(), model.config.intensity)
        figures = {"nfe": sum(nfe) / self.number, "where": None if self.where is None else zero_or_one(self.where)}
        return self._report(seconds, figures)

    def _drawn(self, model: DiffusionAutoencoder) -> Tensor:
        """z of all images, from the prior of the run and under the condition that is asked for."""
        from zsem import api
        from zsem.models.base import find_model
        from zsem.semantics.attributes import Semantics

        where = None
        if self.where is not None:
            folder = find_model(self.model) / "semantics" if self.semantics is None else Path(self.semantics)
            where = Semantics.load(folder, model).log_p(zero_or_one(self.where))
        prior = api.load_prior(self.model, self.prior)
        model.check_prior(prior)
        return prior.sample(
            self.number, seed=self.seed, steps=self.prior_steps, where=where, truncation=self.truncation,
            method=self.method, scale=self.condition_scale, solver=self.prior_solver,
        )  # fmt: skip

    def _from_diffusion(self, model: DiffusionModel) -> Report:
        from zsem import api
        from zsem.models.classifier import NoisyClassifier

        classifier = None if self.classifier is None else api.load(self.classifier, kind=NoisyClassifier)
        settings, wanted = self._settings(classifier), self._wanted(model, classifier)

        def make(images: range) -> Tensor:
            return model.sample(
                len(images), classes=wanted.of(images), seed=self.seed, first=images.start, batch_size=self.batch_size,
                **settings,
            )  # fmt: skip

        with counted(model.unet) as nfe, counted(None if classifier is None else classifier.net) as judged:
            seconds = self._write(make, wanted, model.config.intensity)
        figures: dict[str, Any] = {"nfe": sum(nfe) / self.number}
        if classifier is not None:
            figures["nfe_classifier"] = sum(judged) / self.number
        if wanted.indices:
            figures["classes"] = list(wanted.names)
        if self.progressive:
            self._draw_progress(model, wanted, settings)
        if self.slerp is not None:
            self._draw_slerp(model, wanted, settings, self.slerp)
        return self._report(seconds, figures)

    def _settings(self, classifier: NoisyClassifier | None) -> dict[str, Any]:
        """The arguments of `DiffusionModel.sample` that say how."""
        scale = self.classifier_scale
        return {
            **{
                name: getattr(self, name)
                for name in ("solver", "steps", "spacing", "cleanest", "eta", "guidance_scale")
            },
            "guidance_rescale": self.guidance_rescale,
            "guidance_interval": self.guidance_interval,
            "clip": not self.no_clip,
            "classifier": classifier,
            "classifier_scale": (0.0 if classifier is None else 1.0) if scale is None else scale,
            "classifier_form": self.classifier_form,
        }

    def _wanted(self, model: DiffusionModel, classifier: NoisyClassifier | None) -> Wanted:
        number, names = model.config.unet.num_classes, model.config.class_names
        if classifier is not None:
            guided = self.classes is not None or self.classifier_scale != 0
            number = classifier.config.num_outputs if number is None and guided else number
            names = names or classifier.config.class_names
        if number is not None:
            return chosen_classes(self.classes, number, names)
        if self.classes is not None:
            raise ZsemError(f"{self.model} is unconditional: leave out --classes, or let a --classifier guide it")
        return Wanted()

    def _write(self, make: Callable[[range], Tensor], wanted: Wanted, intensity: Intensity) -> float:
        return write_samples(Path(self.out), make, wanted, intensity, number=self.number, batch_size=self.batch_size)

    def _draw_progress(self, model: DiffusionModel, wanted: Wanted, settings: Mapping[str, Any]) -> None:
        """A row for each image, a column for each step."""
        import torch

        images = range(min(SHOWN, self.number))
        columns = min(self.steps, COLUMNS)
        steps = {round(i * (self.steps - 1) / max(1, columns - 1)) for i in range(columns)}
        walk = model.progressive(
            len(images), classes=wanted.of(images), seed=self.seed, batch_size=self.batch_size, **settings
        )
        expected = torch.stack([x0 for step, x0 in enumerate(walk) if step in steps], dim=1)
        save_picture(Path(self.out) / "progressive.png", [pictures(model.config.intensity, row) for row in expected])

    def _draw_slerp(self, model: DiffusionModel, wanted: Wanted, settings: Mapping[str, Any], frames: int) -> None:
        """A row for each pair of neighbours, 0 and 1, 2 and 3, ..., all of it of the class of the first."""
        import torch

        from zsem.values.codes import slerp

        noise = model.fresh_noise(2 * PAIRS, seed=self.seed).x_T
        share = torch.linspace(0, 1, frames)
        between = [slerp(noise[[i]], noise[[i + 1]], share) for i in range(0, 2 * PAIRS, 2)]
        classes = wanted.of(range(0, 2 * PAIRS, 2))
        made = model.sample(
            PAIRS * frames, classes=None if classes is None else [c for c in classes for _ in range(frames)],
            seed=self.seed, x_T=torch.cat(between), batch_size=self.batch_size, **settings,
        )  # fmt: skip
        rows = pictures(model.config.intensity, made).unflatten(0, (PAIRS, frames))
        save_picture(Path(self.out) / "slerp.png", list(rows))

    def _report(self, seconds: float, more: Mapping[str, Any]) -> Report:
        speed = self.number / seconds
        figures = {"n": self.number, "seconds": seconds, "images_per_second": speed, **more, "out": self.out}
        row = {
            "n": str(self.number), "seconds": f"{seconds:.1f}", "images/s": f"{speed:.3g}",
            **{name.replace("_", " "): f"{more[name]:g}" for name in ("nfe", "nfe_classifier") if name in more},
        }  # fmt: skip
        notes = [f"{self.number} images in {Path(self.out) / 'images'}, the first in {Path(self.out) / 'sample.png'}"]
        return Report(figures=figures, rows=[row], notes=notes)


def write_samples(
    out: Path,
    make: Callable[[range], Tensor],
    wanted: Wanted,
    intensity: Intensity,
    *,
    number: int,
    batch_size: int,
) -> float:
    """Make images, a batch at a time, and write them and the picture; returns the seconds that the making took."""
    import torch

    seconds, kept = 0.0, []
    rows, captions = wanted.rows(number)
    last = max(row[-1] for row in rows)
    with progress("sampling") as done:
        for part in chunks(number, batch_size):
            images = range(part.start, part.stop)
            started = time.perf_counter()
            made = make(images)
            seconds += time.perf_counter() - started
            save_images(out / "images", wanted.stems(images), made, intensity)
            if images.start <= last:
                kept.append(made)
            done(images.stop, number)
    shown = pictures(intensity, torch.cat(kept))
    save_picture(out / "sample.png", [shown[list(row)] for row in rows], captions)
    return seconds


def zero_or_one(text: str) -> dict[str, float]:
    """The attributes of `--where`. ZsemError: it does not read NAME=1,NAME=0,.."""
    return named_numbers(text, "--where", "smile=1,glasses=0")


def chosen_classes(text: str | None, number: int, names: Sequence[str]) -> Wanted:
    """The classes that `--classes` asks for; all `number` of them where it is not given.

    Raises ZsemError for an index or a name that does not exist, with the nearest names.
    """
    if text is None:
        indices = list(range(number))
    elif text in names:  # a name may have commas
        indices = [list(names).index(text)]
    else:
        indices = [class_index(part.strip(), number, names) for part in text.split(",")]
    return Wanted(indices=tuple(indices), names=tuple(names[i] if names else str(i) for i in indices))


def class_index(text: str, number: int, names: Sequence[str]) -> int:
    """The index of a class from its name, or from the index itself where no class has such a name."""
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and int(text) < number:
        return int(text)
    if not names:
        raise ZsemError(f"there is no class {text!r}: --classes takes indices 0..{number - 1} here")
    folded = {name.casefold(): name for name in names}
    near = [folded[name] for name in difflib.get_close_matches(text.casefold(), folded, n=3)]
    some = ", ".join(names[:8]) + (", .." if len(names) > 8 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {some}"
    raise ZsemError(f"there is no class {text!r} among {number}; {hint}")


@contextmanager
def counted(network: nn.Module | None) -> Iterator[list[int]]:
    """The images of every evaluation of a network, while the context lasts."""
    seen: list[int] = []
    handle = None if network is None else network.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
    with nullcontext() if handle is None else handle:
        yield seen


def pictures(intensity: Intensity, images: Tensor) -> Tensor:
    """Images in [-1, 1] as pictures to look at, uint8 [n, 1 or 3, h, w]."""
    from zsem.data.pixels import displayable

    return displayable(intensity.display(images))
