"""How good edits are: a small `zsem bench edit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zsem.data.images import ImageSet
from zsem.data.labels import spread
from zsem.evaluation.bench_edit import DEFAULT, PAPER, AttributeResult, BenchOptions, EditBench
from zsem.evaluation.chapters.chapter import Chapter, needs_z
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, Shown, sheet
from zsem.evaluation.flipping import HIGH, LOW, order_of
from zsem.evaluation.study import SHOWN, Study
from zsem.metrics.intervals import wilson

BEFORE = Measure("seen before", "share", "unedited images that the judge already takes for what is asked for")
HIT = Measure("edits seen", "share", "edited images that the judge takes for what was asked for", "higher")
LEAKAGE = Measure("leakage", "ratio", "change of all other attributes for a change of 1 of the edited one", "lower")
PAPERS = Measure("leakage, plain", "ratio", "the same of the direction of a logistic probe, as DiffAE edits", "lower")
METHODS = (PAPER, DEFAULT)
LEAST = 4
"""Edited images, and as many to calibrate the judge on."""
PICTURED = 4


def measure(study: Study) -> Finding:
    """A row for every attribute that is flipped."""
    results = bench(study).run(study.say, study.folder / "edits")
    figures = [figure for result in results for figure in row_of(result)]
    notes = [
        f"For an attribute that is missing a probability of {HIGH:g} is asked for, for one that is there {LOW:g}. An "
        "independent network, trained on the labels and calibrated on other held-out images, judges the pictures: its "
        "own mistakes count against the edits.",
        f"Edits are made with the direction that `zsem edit` takes ({DEFAULT}); `zsem bench edit` compares more.",
    ]
    if left := len(study.binary) - len(edited(study)):
        notes.append(f"{left} more attributes were left out for time.")
    return Finding(figures=figures, verdict=verdict(results), notes=notes, pictures=pictures(results))


def bench(study: Study) -> EditBench:
    """The protocol, on images with a label of every attribute that is edited."""
    images = replace(study.images, attributes={name: study.images.attributes[name] for name in study.binary})
    options = BenchOptions(
        number=number(study), amounts_of=0, seed=study.seed, methods=METHODS, attributes=tuple(edited(study))
    )
    return EditBench(study.autoencoder, images, study.semantics, study.judge, options, classes=study.classes)


def number(study: Study) -> int:
    """Held-out images that are edited; as many more calibrate the judge."""
    return min(study.amounts.edited, len(study.held_out) // 2)


def edited(study: Study) -> list[str]:
    """The attributes that are flipped, evenly spread over those that there are."""
    names = study.binary
    return [names[i] for i in spread(["train"] * len(names), study.amounts.edited_attributes)]


def row_of(result: AttributeResult) -> list[Figure]:
    """What is seen before and after, and what else changes."""
    name, ours, papers = result.name.replace("_", " "), result.methods[DEFAULT], result.methods[PAPER]
    ends = {method: result.intervals[method].get("leakage") for method in METHODS}
    return [
        BEFORE.of(name, ours.before, ours.n, wilson(ours.before, ours.n)),
        HIT.of(name, ours.hit, ours.n, wilson(ours.hit, ours.n)),
        LEAKAGE.of(name, ours.leakage, ours.n, ends[DEFAULT]),
        PAPERS.of(name, papers.leakage, papers.n, ends[PAPER]),
    ]


def verdict(results: Sequence[AttributeResult]) -> list[Sentence]:
    """How often edits are seen, and how much else they change."""
    if not results:
        return [Sentence(text="None of the attributes could be flipped in these images.")]
    ours = [result.methods[DEFAULT] for result in results]
    hit, before = (float(np.mean([getattr(f, name) for f in ours])) for name in ("hit", "before"))
    gain = hit - before
    grade = "good" if hit >= 0.7 else "fair" if gain >= 0.2 else "poor"
    said = [Sentence(
        grade=grade, text=f"Asked to flip an attribute, an edit succeeds in the eyes of an independent judge in "
        f"{hit:.0%} of the images ({before:.0%} looked so before).",
    )]  # fmt: skip
    leaks = [f.leakage for f in ours if f.leakage is not None]
    if leaks and grade != "poor":  # edits that are not seen change nothing else either, which is no merit
        mean = float(np.mean(leaks))
        said.append(Sentence(
            grade="good" if mean < 0.3 else "fair" if mean < 1 else "poor",
            text=f"For every change of the wanted attribute the others change {mean:.2g} times as much, all of them "
            "together.",
        ))  # fmt: skip
    weak = [r.name.replace("_", " ") for r in results if r.methods[DEFAULT].hit < 0.5]
    if weak:
        said.append(Sentence(grade="poor", text=f"Not even every second edit is seen of: {', '.join(weak)}."))
    return said


def pictures(results: Sequence[AttributeResult]) -> list[Shown]:
    """Originals and edits of some attributes."""
    rows = {}
    for result in results[:PICTURED]:
        name = result.name.replace("_", " ")
        rows[name] = result.pictures["original"][:SHOWN]
        rows[f"{name}, flipped"] = result.pictures[DEFAULT][:SHOWN]
    caption = "Held-out images, and the same with one attribute flipped (there where it was missing, else away)."
    return [sheet(rows, caption)] if rows else []


def left_out(study: Study) -> str:
    """Edits take labels, and images enough to edit some and calibrate the judge on others."""
    if reason := needs_z(study):
        return reason
    if not study.binary:
        return "The images have no 0/1 attributes with several images of both kinds to edit and to judge by."
    few = "Too few images are held out to edit some of them and calibrate the judge on others."
    return "" if number(study) >= LEAST and calibrates(study.held_out, study) else few


def calibrates(held_out: ImageSet, study: Study) -> bool:
    """Whether the images that are not edited have both labels of every attribute."""
    others = order_of(len(held_out), study.seed)[number(study) :]
    labels = [held_out.attributes[name][others] for name in study.binary]
    return all({0.0, 1.0} <= set(values.tolist()) for values in labels)


CHAPTER = Chapter(
    name="edits",
    title="Can attributes be changed?",
    question="One attribute at a time is flipped in real held-out images. A good edit is seen, and leaves all other "
    "attributes alone.",
    uses=("labels", "edited", "edited_attributes", "judge_iterations"),
    measure=measure,
    left_out=left_out,
    version=3,
)
