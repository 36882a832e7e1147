"""`zsem hspace study`: every way to edit in the bottleneck, measured on the same images, on one page."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.attributes import say
from zsem.cli.command import Command, Report, finite
from zsem.cli.directions import names_in
from zsem.cli.images import open_editable, open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.data.images import ImageSet
    from zsem.evaluation.bottleneck.options import StudyOptions
    from zsem.evaluation.bottleneck.workshop import Reference
    from zsem.hspace.editable import Editable

LABELS = 1000
"""Labelled training images that z_sem's attributes are learned from."""


@dataclass(frozen=True, kw_only=True)
class HspaceStudy(Command):
    """Flip attributes of held-out images by every method in h and beside it, and judge what became of them.

    The protocol is that of `zsem bench edit`. Amounts are chosen on training images. DIR then holds results.json and
    study.html; what is done of them is kept, and the same command goes on where it was stopped.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a diffusion model without classes, or of an autoencoder, whose decoder is taken"""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """images with 0/1 labels, as for `zsem bench edit`, some held out; of avatars the true counterfactuals are drawn as
    well"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for results.json, study.html, and what is kept and trained"""
    judge: Annotated[str | None, arg(metavar="JUDGE")] = None
    """folder of the judge, which is trained there if it is empty; DIR/judge where nothing is said"""
    attributes: Annotated[str, arg(metavar="A,B,..")] = "smile,glasses,beard"
    """what is edited"""
    methods: Annotated[str | None, arg(metavar="M,N,..")] = None
    """what is compared, in place of all: mean, asymmetric, global, pca, boundary, f_t, f_t-mean, injection, sdedit,
    classifier, tuned, z_sem"""
    autoencoder: Annotated[str | None, arg(metavar="RUN2")] = None
    """autoencoder whose z_sem says which way f_t, fine-tuning and guidance should go; RUN itself where it is one"""
    number: int = 100
    """held-out images that are edited"""
    steps: int = 20
    """noise levels of every walk"""
    t_edit: int | None = None
    """last timestep at which h is shifted, in place of what `zsem hspace intervals` found, or the usual one"""
    regardless: FlagCreatePairsOff[bool] = False
    """choose amounts by the edited attribute alone, whatever becomes of the others: how far an edit can be driven"""
    batch_size: int = 25
    """images at a time"""
    seed: int = 0
    """of choices"""
    quick: FlagCreatePairsOff[bool] = False
    """a few images and iterations, to see that all of it works; then --number and --steps say nothing"""

    def run(self) -> Report:
        from zsem.data.annotations import with_labels
        from zsem.evaluation.bottleneck.options import check
        from zsem.evaluation.bottleneck.page import overview, write_study
        from zsem.evaluation.bottleneck.study import HspaceStudy as Study
        from zsem.training.judging import binary_attributes, judge_for
        from zsem.values.files import write_whole

        out, model = Path(self.out), open_editable(self.model)
        options = self.options()
        labelled = with_labels(open_images(self.data, model, as_trained=True))
        images = binary_attributes(labelled.images)
        check(options, model, images)
        out.mkdir(parents=True, exist_ok=True)
        judge = judge_for(images, out / "judge" if self.judge is None else self.judge, say=say)
        study = Study(
            model, images, judge, out, options, classes=labelled.classes,
            reference=self.reference(model, images, labelled.classes), t_edit=self.last_timestep(model), say=say,
        )  # fmt: skip
        found = study.run()
        figures = finite({"model": model.stamp, "t_edit": study.shop.t_edit, **found.summary()})
        write_whole(out / "results.json", (json.dumps(figures, indent=2) + "\n").encode())
        page = write_study(out / "study.html", study, found, Path(self.model).name)
        return Report(figures=figures, rows=overview(found), notes=[f"{page} shows all of it"])

    def options(self) -> StudyOptions:
        """How much is measured."""
        from zsem.evaluation.bottleneck.options import QUICK, StudyOptions

        options = StudyOptions(
            attributes=tuple(names_in(self.attributes)), number=self.number, steps=self.steps,
            regardless=self.regardless, batch_size=self.batch_size, seed=self.seed,
        )  # fmt: skip
        if self.methods is not None:
            options = replace(options, methods=tuple(names_in(self.methods)))
        return replace(options, **QUICK) if self.quick else options

    def reference(self, model: Editable, images: ImageSet, classes: Collection[str]) -> Reference | None:
        """The autoencoder that is asked, with what its z_sem says of the attributes."""
        from zsem import api
        from zsem.evaluation.bench_edit import semantics_of
        from zsem.evaluation.bottleneck.workshop import Reference
        from zsem.models.autoencoder import DiffusionAutoencoder

        if self.autoencoder is None and not isinstance(model, DiffusionAutoencoder):
            return None
        if self.autoencoder is None:
            assert isinstance(model, DiffusionAutoencoder)
            other = model
        else:
            other = api.load(self.autoencoder, kind=DiffusionAutoencoder)
        say("what z_sem says of the attributes")
        return Reference(model=other, semantics=semantics_of(other, images, LABELS, classes=classes), labels=LABELS)

    def last_timestep(self, model: Editable) -> float:
        """t_edit: as the command says, else by the curves beside the model, else by the size of the images."""
        from zsem.hspace.intervals import Curves, phases
        from zsem.hspace.latents import usual_t_edit
        from zsem.models.base import find_model

        if self.t_edit is not None:
            if not 0 <= self.t_edit < model.schedule.timesteps:
                raise ZsemError(f"--t-edit is a timestep, 0..{model.schedule.timesteps - 1}, not {self.t_edit}")
            return float(self.t_edit)
        file = find_model(self.model) / "hspace" / "intervals.json"
        if not file.exists():
            return float(usual_t_edit(model))
        curves = Curves.load(file)
        if curves.model != model.stamp:
            raise ZsemError(f"{file} belongs to model {curves.model}: measure again with `zsem hspace intervals`")
        return phases(curves, t_boost=0).t_edit
