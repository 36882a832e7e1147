"""`zsem fewshot`: new images that have what a handful of example images have."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from zsem.cli.attributes import say
from zsem.cli.command import Command, Report
from zsem.cli.images import open_autoencoder, open_images
from zsem.cli.sample import Wanted, counted, write_samples
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor

    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.models.prior import Prior
    from zsem.semantics.fewshot import FewShot

FOLDER = "fewshot"
"""Where a run's few-shot classifier and its images go by default."""
BELIEVED = 0.02
"""Factor of calibration below which a classifier says next to nothing."""


@dataclass(frozen=True, kw_only=True)
class MakeFewShot(Command):
    """Learn from a handful of images what they have in common, and make new images that have it.

    Give as many examples that have not (--negative), or many of which nobody knows (--unlabelled). Writes the images
    to the folder images below DIR, the first of them to sample.png, and what was learned to fewshot.safetensors. z is
    drawn from the prior that `zsem prior` has fitted, so that every image depends on the seed and its number alone.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained autoencoder, or its name on the Hugging Face hub (then give --out)"""
    positive: Annotated[str, arg(metavar="DIR")]
    """folder, archive or file of images that have it"""
    negative: Annotated[str | None, arg(metavar="DIR")] = None
    """such that have not"""
    unlabelled: Annotated[str | None, arg(metavar="DIR")] = None
    """such of which nobody knows, in place of --negative: any images, the more the better"""
    number: Annotated[int, arg(aliases=["-n"])] = 64
    """images to make"""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """folder for all of it, in place of RUN/fewshot"""
    seed: int = 0
    """of folds and samples"""
    steps: int = 20
    """noise levels of the decoder"""
    method: Literal["elkan_noto", "nnpu", "naive"] = "elkan_noto"
    """how unlabelled images are learned from; naive takes them for negative"""
    class_prior: float | None = None
    """share of all images that have it; estimated from samples of the prior, or from the unlabelled images"""
    surest: int = 1
    """draws for every image, of which the surest is taken: 1 = as sure as the examples are; more is less various"""
    prior: Annotated[str | None, arg(metavar="DIR")] = None
    """where the prior is, in place of RUN/prior"""
    prior_steps: int = 100
    """noise levels of a latent DDIM"""
    batch_size: int = 16
    """images that are decoded at once"""

    def run(self) -> Report:
        from zsem import api
        from zsem.semantics.fewshot import FILE

        self._check()
        out = self._folder()
        model = open_autoencoder(self.model)
        prior = api.load_prior(self.model, self.prior)
        model.check_prior(prior)
        found = self._fit(model, prior)
        found.save(out / FILE)
        return self._report(model, prior, found, out)

    def _check(self) -> None:
        """Raise ZsemError for what cannot be, whatever the model."""
        if (self.negative is None) == (self.unlabelled is None):
            raise ZsemError("give either --negative DIR or --unlabelled DIR beside --positive DIR")
        if self.negative is not None and self.method != "elkan_noto":
            raise ZsemError(f"--method {self.method} is a way to learn from --unlabelled images: leave it out")
        for name, least in (("number", 1), ("batch_size", 1), ("seed", 0), ("surest", 1)):
            if getattr(self, name) < least:
                raise ZsemError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")

    def _folder(self) -> Path:
        """Where everything goes. ZsemError: the model is no folder here and no other is named."""
        if self.out is not None:
            return Path(self.out)
        if not Path(self.model).is_dir():
            raise ZsemError(f"{self.model} is no folder here to write to: name one with --out")
        return Path(self.model) / FOLDER

    def _fit(self, model: DiffusionAutoencoder, prior: Prior) -> FewShot:
        from zsem.evaluation.fewshot import UNLABELLED
        from zsem.semantics.fewshot import fit_binary, fit_unlabelled

        def codes(source: str) -> Tensor:
            return model.encode(open_images(source, model), noise=False, batch_size=64).z

        positive = codes(self.positive)
        if self.unlabelled is not None:
            unlabelled = codes(self.unlabelled)
            say(f"z of {len(positive)} positive and {len(unlabelled)} unlabelled images")
            return fit_unlabelled(
                positive, unlabelled, model, self.method, class_prior=self.class_prior, seed=self.seed
            )
        assert self.negative is not None
        negative = codes(self.negative)
        say(f"z of {len(positive)} positive and {len(negative)} negative images")
        plain = None
        if self.class_prior is None:
            plain = prior.sample(UNLABELLED, seed=self.seed, steps=self.prior_steps)
        return fit_binary(
            positive, negative, model, unlabelled=plain, class_prior=self.class_prior, seed=self.seed
        )  # fmt: skip

    def _report(self, model: DiffusionAutoencoder, prior: Prior, found: FewShot, out: Path) -> Report:
        from zsem.evaluation.fewshot import draw_conditional
        from zsem.models.walking import Walking

        started = time.perf_counter()
        drawn = draw_conditional(
            prior, found, self.number, surest=self.surest, seed=self.seed, steps=self.prior_steps
        )  # fmt: skip
        seconds, walking = time.perf_counter() - started, Walking(steps=self.steps)

        def make(images: range) -> Tensor:
            return model.decode(
                model.codes(drawn.z[images.start : images.stop]), seed=self.seed, first=images.start,
                walking=walking, batch_size=self.batch_size,
            )  # fmt: skip

        with counted(model.unet) as nfe:
            seconds += write_samples(
                out, make, Wanted(), model.config.intensity, number=self.number, batch_size=self.batch_size
            )
        figures = {
            **found.about, "class_prior": found.class_prior, "surest": self.surest, "acceptance": drawn.acceptance,
            "n": self.number, "nfe": sum(nfe) / self.number, "seconds": seconds, "out": str(out),
        }  # fmt: skip
        others = "negative" if self.unlabelled is None else "unlabelled"
        row = {
            "fitted": str(found.about["method"]), "examples": f"{found.about['positive']} + {found.about[others]}",
            "class prior": "-" if found.class_prior is None else f"{found.class_prior:.2f}",
            "acceptance": f"{100 * drawn.acceptance:.2g} %", "n": str(self.number), "seconds": f"{seconds:.1f}",
        }  # fmt: skip
        notes = [f"{self.number} images in {out / 'images'}, the first in {out / 'sample.png'}"]
        if found.about.get("slope", 1.0) < BELIEVED:
            notes.append("z hardly tells these examples apart, so that little is asked of the samples: give more")
        return Report(figures=figures, rows=[row], notes=notes)
