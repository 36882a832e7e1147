"""`zsem attributes`: what can be read off z, and what edits need to know."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report, finite
from zsem.cli.images import open_autoencoder, open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.data.images import ImageSet
    from zsem.models.judge import Judge

COLUMNS = {"pca": "PCA", "pixels": "pixels", "vae": "VAE", "cnn": "CNN"}
REPORT = "attributes.json"


@dataclass(frozen=True, kw_only=True)
class Attributes(Command):
    """Learn attributes from labels, and tell how well z knows them on images that training has held out.

    Labels are taken from attributes.csv, class folders, and annotation files of CelebA and CelebA-HQ. A row has AUROC
    (R2 for real values) of a linear probe on z with a 95 % interval and the chance p of doing as well without any
    relation, beside the same probe on as many principal components of the pixels, on the pixels, on a VAE's codes, and
    a supervised network. What was learned goes to RUN/semantics, where `zsem directions` and edits find it.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained autoencoder, or its name on the Hugging Face hub (then give --out)"""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """folder or archive of labelled images"""
    annotations: Annotated[str | None, arg(metavar="FILE")] = None
    """labels in CelebA's format; list_attr_celeba.txt and CelebAMask-HQ-attribute-anno.txt are found by themselves"""
    vae: Annotated[str | None, arg(metavar="RUN2")] = None
    """a VAE to compare with"""
    judge: Annotated[str | None, arg(metavar="DIR")] = None
    """folder of a supervised network to compare with; it is trained first (minutes) where it is not there"""
    labels: int = 1000
    """labelled training images to learn from at most"""
    held_out: int = 2000
    """held-out images to judge on at most"""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """folder for what was learned, in place of RUN/semantics"""
    resamples: int = 1000
    """bootstrap samples of an interval, and permutations of a p-value"""
    seed: int = 0
    """of folds, intervals and permutations"""

    def run(self) -> Report:
        from zsem import api
        from zsem.data.annotations import with_labels
        from zsem.evaluation.attributes import judge_attributes, mean_scores
        from zsem.models.vae import VariationalAutoencoder
        from zsem.values.files import write_whole

        for name, least in (("labels", 4), ("held_out", 2), ("resamples", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ZsemError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        out = semantics_folder(self.model, self.out)
        model = open_autoencoder(self.model)
        vae = None if self.vae is None else api.load(self.vae, kind=VariationalAutoencoder)
        found = with_labels(open_images(self.data, model, as_trained=True), self.annotations)
        judged = judge_attributes(
            model, found.images, classes=found.classes, vae=vae, judge=self._judge(found.images),
            labels=self.labels, held_out=self.held_out, resamples=self.resamples, seed=self.seed, say=say,
        )  # fmt: skip
        figures = {**judged.figures, "mean": mean_scores(judged.attributes), "out": str(out)}
        judged.semantics.save(out)
        write_whole(out / REPORT, (json.dumps(finite(figures), indent=2) + "\n").encode())
        rows = [table_row(name, row) for name, row in figures["attributes"].items()]
        if figures["mean"]:
            mean = {name: f"{figures['mean'][name]:.3f}" if name in figures["mean"] else "" for name in COLUMNS}
            rows.append(
                {**dict.fromkeys(rows[0], ""), "attribute": "mean AUROC", "z": f"{figures['mean']['z']:.3f}"}
                | {title: mean[name] for name, title in COLUMNS.items()}
            )
        notes = [f"from {judged.labels} labelled images, judged on {judged.held_out} held-out ones; learned: {out}"]
        return Report(figures=figures, rows=rows, notes=notes)

    def _judge(self, images: ImageSet) -> Judge | None:
        from zsem.training.judging import judge_for

        return None if self.judge is None else judge_for(images, self.judge, say=say)


def semantics_folder(model: str, out: str | None) -> Path:
    """Where a run's attributes are. Raises ZsemError where the model is no folder here and no other is named."""
    if out is not None:
        return Path(out)
    if not Path(model).is_dir():
        raise ZsemError(f"{model} is no folder here to write to: name one with --out")
    return Path(model) / "semantics"


def table_row(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table for people."""
    real = "r2" in row
    score = row["r2" if real else "auroc"]
    return {
        "attribute": f"{name} (R2)" if real else name,
        "z": f"{score:.3f}",
        "95 % interval": f"{row['low']:.3f}-{row['high']:.3f}",
        "p": f"{row['p']:.3f}",
        **{title: "" if row[key] is None else f"{row[key]:.3f}" for key, title in COLUMNS.items()},
        "n": str(row["n"]),
    }


def say(line: str) -> None:
    """What is being done, on stderr: stdout is for the report."""
    print(line, file=sys.stderr)
