"""`zsem evaluate`: everything that is worth knowing of a model, in one run that goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zsem.evaluation.chapters import (
    attributes,
    conditions,
    edits,
    health,
    interpolation,
    memorisation,
    reconstruction,
    sampling,
)
from zsem.evaluation.chapters.chapter import Chapter
from zsem.evaluation.findings import Finding, Sentence
from zsem.evaluation.keeping import read_kept, write_kept
from zsem.evaluation.study import Study
from zsem.values.errors import ZsemError

CHAPTERS: tuple[Chapter, ...] = tuple(
    part.CHAPTER
    for part in (reconstruction, health, attributes, edits, sampling, conditions, memorisation, interpolation)
)
NAMES = tuple(chapter.name for chapter in CHAPTERS)
SENTENCES = 5
"""So many of the chapters speak in the summary."""
PROTOCOL = 1
"""Changed when findings are kept in another form."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation has found: by chapter, and why chapters were left out."""

    findings: Mapping[str, Finding]
    left_out: Mapping[str, str]

    @property
    def verdict(self) -> list[Sentence]:
        """The first sentences of the first chapters, five at most."""
        return [finding.verdict[0] for finding in self.findings.values() if finding.verdict][:SENTENCES]


def evaluate(study: Study, *, only: Collection[str] = (), say: Callable[[str], None] = lambda _: None) -> Evaluated:
    """Do all chapters in turn, or those named; what is done is kept in the study's folder and found there again.

    A result is found again where settings, model and images are the same. say: told when a chapter begins.
    Raises ZsemError for chapters that there are not.
    """
    check(only)
    findings: dict[str, Finding] = {}
    left_out: dict[str, str] = {}
    for chapter in CHAPTERS:
        if only and chapter.name not in only:
            continue
        if reason := chapter.left_out(study):
            say(f"{chapter.name}: left out. {reason}")
            left_out[chapter.name] = reason
            continue
        findings[chapter.name] = one(study, chapter, say)
    return Evaluated(findings=findings, left_out=left_out)


def check(only: Collection[str]) -> None:
    """Raise ZsemError for chapters that there are not; takes no time."""
    if unknown := sorted(set(only) - set(NAMES)):
        raise ZsemError(f"there is no section {unknown[0]!r}: choose among {', '.join(NAMES)}")


def one(study: Study, chapter: Chapter, say: Callable[[str], None]) -> Finding:
    """What a chapter has found, now or before."""
    path = study.folder / "sections" / f"{chapter.name}.safetensors"
    origin = {**study.origin(), **settings(study, chapter)}
    kept = read_kept(path, origin)
    if kept is not None:
        say(f"{chapter.name}: measured before")
        return Finding.found(*kept)
    say(f"{chapter.name}: {chapter.title}")
    finding = chapter.measure(study)
    write_kept(path, origin, *finding.kept())
    return finding


def settings(study: Study, chapter: Chapter) -> dict[str, Any]:
    """What a chapter's figures depend on beside the model and the images."""
    amounts = asdict(study.amounts)
    return {
        "protocol": PROTOCOL, "version": chapter.version, "amounts": {name: amounts[name] for name in chapter.uses},
        "classes": list(study.classes),
    }  # fmt: skip


def as_json(study: Study, evaluated: Evaluated) -> dict[str, Any]:
    """results.json: the verdict, and every figure of every chapter."""
    return {
        "model": {"run": study.run, "kind": study.model.kind, "stamp": study.model.stamp},
        "data": {
            "name": study.data, "training": len(study.training), "held_out": len(study.held_out),
            "attributes": list(study.images.attributes),
        },
        "seed": study.seed,
        "amounts": asdict(study.amounts),
        "verdict": [asdict(sentence) for sentence in evaluated.verdict],
        "sections": {
            name: {
                "figures": [asdict(figure) for figure in finding.figures],
                "verdict": [asdict(sentence) for sentence in finding.verdict],
                "notes": list(finding.notes),
            }
            for name, finding in evaluated.findings.items()
        },
        "left_out": dict(evaluated.left_out),
    }  # fmt: skip
