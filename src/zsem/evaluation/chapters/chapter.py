"""What a chapter of an evaluation is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zsem.evaluation.findings import Finding
from zsem.evaluation.study import Study


def always(study: Study) -> str:
    """For chapters that make sense of all models and images."""
    return ""


def needs_z(study: Study) -> str:
    """For chapters about semantic codes."""
    return "" if study.has_z else "The model has no semantic codes: it is a plain diffusion model."


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One subject.

    name: for --only. title, question: for the page. uses: the amounts that its figures depend on.
    measure: does it. left_out: one sentence why it makes no sense for a model and images; empty where it does.
    version: changed when the figures would be others, so that kept ones are not used.
    """

    name: str
    title: str
    question: str
    uses: tuple[str, ...]
    measure: Callable[[Study], Finding]
    left_out: Callable[[Study], str] = always
    version: int = 1
