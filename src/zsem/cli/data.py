"""`zsem data`: built-in image sets, and what is in a set of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report, progress

if TYPE_CHECKING:
    from zsem.data.images import ImageSet

LISTED = 12
"""How many sizes or classes are listed for people."""


@dataclass(frozen=True, kw_only=True)
class Avatars(Command):
    """Render labelled cartoon faces into a folder: images, attributes.csv, and avatars.json for counterfactuals.

    Needs the drawings: pip install 'zsem[avatars]'. The last tenth of the faces is held out in DIR/val.
    """

    out: Annotated[str, arg(metavar="DIR")]
    """folder to write; one that holds the same faces already is left as it is"""
    number: int = 10_000
    """faces"""
    size: int = 64
    """side of the images, pixels"""
    style: str = "avataaars"
    """drawing style"""
    jitter: Literal["mild", "light", "none"] = "mild"
    """shift, scale, turn and light of each face: mild is up to 8 %, 10 %, 8 degrees and 15 %, light half of it"""
    seed: int = 0
    """every face is a function of seed, style, jitter and its number"""

    def run(self) -> Report:
        from zsem.data.builtin import avatars

        with progress("rendering") as done:
            folder = avatars(
                self.out,
                number=self.number,
                size=self.size,
                seed=self.seed,
                style=self.style,
                jitter=self.jitter,
                progress=done,
            )
        figures = {"number": self.number, "size": self.size, "style": self.style, "out": str(folder)}
        return Report(figures=figures, notes=[f"{self.number} faces in {folder}"])


@dataclass(frozen=True, kw_only=True)
class Digits(Command):
    """Write scikit-learn's 1,797 handwritten digits (8 x 8, grey), enlarged, into a folder with one class per digit."""

    out: Annotated[str, arg(metavar="DIR")]
    """folder to write; one that holds the same digits already is left as it is"""
    size: int = 32
    """side of the images, pixels"""

    def run(self) -> Report:
        from zsem.data.builtin import digits

        folder = digits(self.out, size=self.size)
        return Report(figures={"size": self.size, "out": str(folder)}, notes=[f"digits in {folder}"])


@dataclass(frozen=True, kw_only=True)
class DataInfo(Command):
    """Count what a set of images holds: sizes, depths, splits, classes, attributes, groups, broken files."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """folder, archive or file of images; Parquet tables, npz or idx files"""
    limit: int | None = None
    """only so many images, evenly spaced over the splits"""
    group: str | None = None
    """column of attributes.csv that names what belongs together; by default the one named group"""

    def run(self) -> Report:
        from zsem.data.images import load_images

        # The side does not matter for counting; a small one keeps the memory small
        with progress("reading") as done:
            images = load_images(self.path, size=8, limit=self.limit, group=self.group, progress=done)
        figures = counted(images)
        return Report(figures=figures, notes=[*in_words(figures), *images.notes])


def counted(images: ImageSet) -> dict[str, Any]:
    """The figures of `zsem data info`."""
    import numpy as np

    originals = images.originals
    groups = Counter(group for group in images.groups if group)
    attributes = {
        name: {
            "mean": None if np.isnan(values).all() else float(np.nanmean(values)),
            "missing": int(np.isnan(values).sum()),
        }
        for name, values in images.attributes.items()
    }
    return {
        "n": len(images),
        "channels": images.channels,
        "depths": dict(Counter(original.depth for original in originals).most_common()),
        "sizes": dict(Counter(f"{original.width} x {original.height}" for original in originals).most_common()),
        "low": min(original.low for original in originals),
        "high": max(original.high for original in originals),
        "splits": dict(Counter(images.splits)),
        "classes": dict(Counter(images.class_names[i] for i in images.classes.tolist() if i >= 0)),
        "without_class": int((images.classes < 0).sum()) if images.class_names else 0,
        "groups": {
            "n": len(groups),
            "largest": max(groups.values(), default=0),
            "without": images.groups.count(""),
        },
        "attributes": attributes,
        "skipped": [{"path": path, "reason": reason} for path, reason in images.skipped],
    }


def in_words(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures of `zsem data info` as lines for people."""
    channels = {1: "grey", 3: "colour"}.get(figures["channels"], f"{figures['channels']} channels")
    depths = ", ".join(f"{depth} ({count})" for depth, count in figures["depths"].items())
    yield f"{figures['n']} images, {channels}, {depths}, values from {figures['low']:g} to {figures['high']:g}"
    for name, kind in (("sizes", "size"), ("splits", "split"), ("classes", "class")):
        counts = list(figures[name].items())
        if counts:
            more = f", and {len(counts) - LISTED} more" * (len(counts) > LISTED)
            yield f"{kind}: " + ", ".join(f"{what} ({count})" for what, count in counts[:LISTED]) + more
    if figures["without_class"]:
        yield f"without a class: {figures['without_class']}"
    if groups := figures["groups"]["n"]:
        without = figures["groups"]["without"]
        yield f"{groups} groups, the largest of {figures['groups']['largest']}" + f", {without} without" * (without > 0)
    for name, about in figures["attributes"].items():
        mean = "nothing known" if about["mean"] is None else f"mean {about['mean']:.4g}"
        yield f"attribute {name}: {mean}" + f", {about['missing']} missing" * (about["missing"] > 0)
    if skipped := figures["skipped"]:
        yield f"{len(skipped)} files cannot be read:"
    for file in skipped:
        yield f"cannot be read: {file['path']} ({file['reason']})"
