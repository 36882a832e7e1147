"""`zsem prior`: what semantic codes are like, learned from the images that an autoencoder was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.attributes import say
from zsem.cli.command import Command, Report, progress
from zsem.cli.settings import parse_with, value_of
from zsem.training.presets import PRIORS, Preset, find_prior
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.models.prior import Prior

MINUTES = 5.0
"""How long to train a latent DDIM where nothing is said."""
DEFAULT = "small"


@dataclass(frozen=True, kw_only=True)
class FitPrior(Command):
    """Fit a prior to the semantic codes of an autoencoder's training images, so that `zsem sample` makes new ones.

    A mixture takes seconds; a latent DDIM, the prior of the paper, is trained. Codes are encoded once and kept in
    RUN/codes. The flags with dots are settings of a latent DDIM, shown with the values of the --preset that is given.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained autoencoder, or its name on the Hugging Face hub (then give --out)"""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """folder or archive of the images that it was trained on"""
    kind: Literal["mixture", "ddim"] = "mixture"
    """a Gaussian mixture, or the latent DDIM"""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """folder for the prior, in place of RUN/prior"""
    minutes: float | None = None
    """how long to train a latent DDIM, over all resumes; 5 where neither this nor --iterations is given"""
    iterations: int | None = None
    """how long to train it, over all resumes"""
    resume: FlagCreatePairsOff[bool] = False
    """go on with the training of a latent DDIM, with its own settings"""
    limit: int | None = None
    """only so many training images, evenly spaced"""
    seed: int = 0
    """of the mixture's fit; that of a latent DDIM is --training.seed"""
    preset: Annotated[str, arg(metavar="{" + ",".join(PRIORS) + "}")] = DEFAULT
    """settings of a latent DDIM to begin with; small takes minutes on a CPU"""
    settings: Annotated[Preset, arg(name="")] = dataclasses.field(default_factory=lambda: find_prior(DEFAULT))

    @classmethod
    def parse(cls, args: Sequence[str], *, prog: str) -> FitPrior:
        return parse_with(cls, find_prior(value_of("--preset", args) or DEFAULT), args, prog=prog)

    def run(self) -> Report:
        from zsem import api
        from zsem.api.priors import prior_folder

        self._check()
        minutes = self.minutes
        if self.kind == "ddim" and minutes is None and self.iterations is None:
            minutes = MINUTES
        with progress("encoding") as done:
            prior = api.fit_prior(
                self.model, self.data, kind=self.kind, out=self.out, preset=self.settings, minutes=minutes,
                iterations=self.iterations, resume=self.resume, limit=self.limit, seed=self.seed, say=say,
                progress=done,
            )  # fmt: skip
        out = prior_folder(self.model, self.out)
        row = mixture_row(prior) if self.kind == "mixture" else ddim_row(prior)
        where = f" --prior {self.out}" if self.out is not None else ""
        notes = [f"{out} holds the prior; `zsem sample {self.model}{where} -n 64 --out DIR` draws from it"]
        figures = {"out": str(out), "kind": prior.kind, **prior.history}
        return Report(figures=figures, rows=[row], notes=notes)

    def _check(self) -> None:
        """Raise ZsemError for what cannot be."""
        for name in ("minutes", "iterations", "limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ZsemError(f"--{name} must be above 0, not {value:g}")
        if self.seed < 0:
            raise ZsemError(f"--seed must be at least 0, not {self.seed}")
        if self.minutes is not None and self.iterations is not None:
            raise ZsemError("say how long to train in --minutes or in --iterations, not in both")
        if self.kind == "mixture":
            trained = {"minutes": self.minutes, "iterations": self.iterations, "resume": self.resume or None}
            if given := [name for name, value in trained.items() if value is not None]:
                raise ZsemError(f"--{given[0]} is for a latent DDIM: add --kind ddim, or leave it out")


def mixture_row(prior: Prior) -> dict[str, str]:
    """The table of a mixture: what was chosen, and how probable held-out codes are."""
    chosen, held_out = prior.history["chosen"], prior.history["held_out"]
    return {
        "prior": "mixture", "Gaussians": str(chosen["components"]), "of components": str(chosen["rank"]),
        "held-out log p(z)": f"{held_out['log_likelihood']:.2f} +- {held_out['standard_error']:.2f} nats",
        "gain over one Gaussian": f"{chosen['log_likelihood'] - chosen['one_gaussian']:.2f} nats",
        "n": f"{prior.history['train_images']} + {held_out['n']}",
    }  # fmt: skip


def ddim_row(prior: Prior) -> dict[str, str]:
    """The table of a latent DDIM: how long it was trained, and its loss on held-out codes."""
    history: dict[str, Any] = prior.history
    found = history.get("validation")
    return {
        "prior": "latent DDIM", "iterations": str(history["iterations"]), "minutes": f"{history['minutes']:g}",
        "held-out loss": "" if found is None else f"{found['loss']:.4f}",
        "n": str(history["train_images"]) + ("" if found is None else f" + {found['n']}"),
    }  # fmt: skip
