"""`zsem bench edit`: how good edits are, measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from zsem.cli.attributes import say
from zsem.cli.command import Command, Report
from zsem.cli.images import open_autoencoder, open_images
from zsem.evaluation.bench_edit import BenchOptions
from zsem.evaluation.flipping import COLUMNS, text
from zsem.evaluation.flipping import MEANING as MEANING_OF_COLUMNS
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.evaluation.bench_edit import AttributeResult
    from zsem.report import Section

RANKED = "Rank correlation of seven amounts and what is seen"
DONE = "attributes"
"""The folder in DIR with what is done of them."""
MEANING = (
    "Every attribute is flipped in held-out images: a probability of 0.9 is asked for where it is missing, 0.1 where "
    "it is there. An independent network judges the pictures, its probabilities calibrated on other held-out images.",
    MEANING_OF_COLUMNS,
    "random: steps as long as those of the default, to nowhere; oracle: the code of the true counterfactual itself, "
    "as a perfect direction would find it.",
)


@dataclass(frozen=True, kw_only=True)
class BenchEdit(Command):
    """Flip every attribute in held-out images by several methods, and judge what became of them.

    DATA needs 0/1 labels and held-out images. With avatars the true counterfactuals are drawn as well. DIR then
    holds results.json and report.html; the judge is trained once and kept. Attributes that are done are kept
    as well: the same command goes on where it was stopped.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained autoencoder, its name on the hub, or a model that zsem comes with"""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """images with 0/1 labels: attributes.csv, class folders, or CelebA's list_attr_celeba.txt or
    CelebAMask-HQ-attribute-anno.txt among or beside them"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for results.json and report.html"""
    judge: Annotated[str | None, arg(metavar="JUDGE")] = None
    """folder of the judge; DIR/judge where nothing is said"""
    labels: int = 1000
    """labelled training images that the attributes are learned from"""
    options: Annotated[BenchOptions, arg(name="")] = field(default_factory=BenchOptions)

    def run(self) -> Report:
        from zsem.data.annotations import with_labels
        from zsem.evaluation.bench_edit import EditBench, as_json, check, semantics_of
        from zsem.report import write_page
        from zsem.training.judging import binary_attributes, judge_for
        from zsem.values.files import write_whole

        if self.labels < 4:
            raise ZsemError(f"--labels must be at least 4, not {self.labels}")
        out, model = Path(self.out), open_autoencoder(self.model)
        labelled = with_labels(open_images(self.data, model, as_trained=True))
        images = binary_attributes(labelled.images)
        check(self.options, images)  # before the judge takes its minutes
        out.mkdir(parents=True, exist_ok=True)
        judge = judge_for(images, out / "judge" if self.judge is None else self.judge, say=say)
        semantics = semantics_of(model, images, self.labels, classes=labelled.classes)
        bench = EditBench(model, images, semantics, judge, self.options, classes=labelled.classes)
        results = bench.run(say, out / DONE)
        figures = as_json(results)
        write_whole(out / "results.json", (json.dumps(figures, indent=2) + "\n").encode())
        title = f"Edits of {Path(self.model).name}"
        page = write_page(out / "report.html", title, sections(results, figures), summary=MEANING)
        return Report(figures=figures, rows=table(figures["mean"]), notes=[f"{page} shows all of it"])


def table(methods: Mapping[str, Mapping[str, Any]], first: str = "method") -> list[dict[str, str]]:
    """A row for each method, with the figures that any of them has: without counterfactuals there is no truth."""
    known = {key: says for key, says in COLUMNS.items() if any(f[key] is not None for f in methods.values())}
    return [
        {first: method, **{says: text(key, figures[key]) for key, says in known.items()}}
        for method, figures in methods.items()
    ]


def sections(results: Sequence[AttributeResult], figures: Mapping[str, Any]) -> list[Section]:
    """The page: means first, then every attribute with its pictures."""
    from zsem.data.pixels import displayable, grid
    from zsem.evaluation.bench_edit import DEFAULT
    from zsem.report import Picture, Section

    def section(title: str, methods: Mapping[str, Mapping[str, Any]], **more: Any) -> Section:
        best = [number for number, method in enumerate(methods) if method == DEFAULT]
        return Section(title=title, rows=table(methods), best=best, **more)

    pages = [section("All attributes", figures["mean"], text=["Means over the attributes; the default is set off."])]
    for result in results:
        sheet = grid(*map(displayable, result.pictures.values()), captions=list(result.pictures), scale=2)
        true = " beside the true counterfactuals" if "truth" in result.pictures else " of them"
        caption = f"Originals, and edits{true}."
        n, monotone = result.methods[DEFAULT].n, result.monotonicity
        pages.append(
            section(
                result.name.replace("_", " "),
                figures["attributes"][result.name]["methods"],
                text=[f"{n} images."] if monotone is None else [f"{n} images. {RANKED}: {monotone:.2f}."],
                pictures=[Picture(image=sheet, caption=caption)],
            )
        )
    return pages
