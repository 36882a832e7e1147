"""`zsem evaluate`: everything that is worth knowing of a model, on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.attributes import say
from zsem.cli.command import Command, Report, finite
from zsem.cli.images import open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.evaluation.evaluate import Evaluated
    from zsem.evaluation.study import Study
    from zsem.models.prior import Prior


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure a model on images that its training held out, and tell on one page how good it is.

    Sections: reconstruction, health (is z used?), attributes (what z knows), edits, sampling, conditions, memorisation,
    interpolation. Those that make no sense for a model or its images are left out and say why. DIR then holds
    results.json, every figure with its n and its 95 % interval, and report.html. Sections that are done are kept: the
    same command goes on where it was stopped.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained autoencoder or diffusion model, its name on the hub, or a model that zsem comes with"""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """folder or archive of images, those that it was trained on among them"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for results.json, report.html, and what is kept"""
    quick: FlagCreatePairsOff[bool] = False
    """fewer images everywhere: minutes for a small model, wider intervals"""
    only: tuple[str, ...] = ()
    """sections to do; all without"""
    seed: int = 0
    """of choices, noise and intervals"""

    def run(self) -> Report:
        from zsem.evaluation.evaluate import as_json, check, evaluate
        from zsem.evaluation.page import write_evaluation
        from zsem.values.files import write_whole

        if self.seed < 0:
            raise ZsemError(f"--seed must be at least 0, not {self.seed}")
        check(self.only)
        study = self._study()
        evaluated = evaluate(study, only=self.only, say=say)
        figures = finite(as_json(study, evaluated))
        out = Path(self.out)
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "results.json", (json.dumps(figures, indent=2) + "\n").encode())
        page = write_evaluation(out / "report.html", study, evaluated, self._command())
        return Report(figures=figures, notes=[*lines(evaluated), f"{page} shows all of it"])

    def _study(self) -> Study:
        from zsem import api
        from zsem.data.annotations import with_labels
        from zsem.evaluation.study import QUICK, Amounts, Study
        from zsem.models.autoencoder import DiffusionAutoencoder
        from zsem.models.diffusion import DiffusionModel

        model = api.load(self.model)
        if not isinstance(model, (DiffusionAutoencoder, DiffusionModel)):
            raise ZsemError(f"{self.model} is a model of kind {model.kind!r}: give an autoencoder or a diffusion model")
        found = with_labels(open_images(self.data, model, as_trained=True), required=False)
        return Study(
            model, found.images, run=self.model, data=self.data, folder=Path(self.out),
            amounts=QUICK if self.quick else Amounts(), seed=self.seed, classes=found.classes,
            prior=prior_of(self.model) if isinstance(model, DiffusionAutoencoder) else None, say=say,
        )  # fmt: skip

    def _command(self) -> Sequence[str]:
        """The words that this was asked for with."""
        words = ["zsem", "evaluate", self.model, self.data, "--out", self.out]
        words += ["--quick"] if self.quick else []
        words += ["--only", *self.only] if self.only else []
        return [*words, "--seed", str(self.seed)]


def prior_of(run: str) -> Prior | None:
    """The prior of a run, where it has one."""
    from zsem.api.priors import FOLDER, load_prior
    from zsem.interop.importing import is_foreign
    from zsem.models.base import find_model

    if is_foreign(Path(run)) or not (find_model(run) / FOLDER / "config.json").exists():
        return None
    return load_prior(run)


def lines(evaluated: Evaluated) -> list[str]:
    """The first sentence of every section, with its grade."""
    first = {name: finding.verdict[0] for name, finding in evaluated.findings.items() if finding.verdict}
    said = [f"{name}: {sentence.grade.replace('none', '-')}. {sentence.text}" for name, sentence in first.items()]
    return said + [f"{name}: left out. {why}" for name, why in evaluated.left_out.items()]
