"""`zsem sample`: new images out of noise, of chosen classes and under guidance."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report, progress
from zsem.cli.images import SHOWN, chunks, file_stems, save_images, save_picture
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zsem.data.intensity import Intensity
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
    of them to sample.png. Of the options below --batch-size all are for diffusion models alone.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model (diffusion, vae or gan), or its name on the Hugging Face hub"""
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
    eta: float = 0.0
    """share of fresh noise in the steps of ddim, 0..1"""
    no_clip: FlagCreatePairsOff[bool] = False
    """leave predictions outside [-1, 1] as they are"""
    progressive: FlagCreatePairsOff[bool] = False
    """draw what the first images are expected to be after every step, to progressive.png"""
    slerp: Annotated[int | None, arg(metavar="K")] = None
    """draw K images between two by spherical interpolation of their x_T, for some pairs, to slerp.png"""

    def run(self) -> Report:
        from zsem import api
        from zsem.models.baseline import LatentVariableModel
        from zsem.models.diffusion import DiffusionModel

        self._check()
        model = api.load(self.model)
        if isinstance(model, DiffusionModel):
            return self._from_diffusion(model)
        if not isinstance(model, LatentVariableModel):
            raise ZsemError(f"{self.model} is a model of kind {model.kind!r}, which does not make images out of noise")
        if unfit := self._for_diffusion():
            raise ZsemError(
                f"--{unfit[0]} is for diffusion models alone, and {self.model} is a {model.kind}: leave it out"
            )

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

    def _for_diffusion(self) -> list[str]:
        """The options that are given and mean something for diffusion models alone."""
        own = [field for field in fields(self) if field.name not in FOR_ALL]
        return [field.name.replace("_", "-") for field in own if getattr(self, field.name) != field.default]

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
            **{name: getattr(self, name) for name in ("solver", "steps", "spacing", "eta", "guidance_scale")},
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
        """Make images, a batch at a time, and write them and the picture; returns the seconds that the making took."""
        import torch

        out, seconds, kept = Path(self.out), 0.0, []
        rows, captions = wanted.rows(self.number)
        last = max(row[-1] for row in rows)
        with progress("sampling") as done:
            for part in chunks(self.number, self.batch_size):
                images = range(part.start, part.stop)
                started = time.perf_counter()
                made = make(images)
                seconds += time.perf_counter() - started
                save_images(out / "images", wanted.stems(images), made, intensity)
                if images.start <= last:
                    kept.append(made)
                done(images.stop, self.number)
        shown = pictures(intensity, torch.cat(kept))
        save_picture(out / "sample.png", [shown[list(row)] for row in rows], captions)
        return seconds

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
