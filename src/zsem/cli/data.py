"""`zsem data`: built-in image sets, and what is in a set of images."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report, progress

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
    """Count the images of a folder or archive: sizes, splits, classes, attributes, and files that cannot be read."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """folder, archive or file of images"""
    limit: int | None = None
    """only so many images, evenly spaced over the splits"""

    def run(self) -> Report:
        import numpy as np

        from zsem.data.images import load_images

        # The side does not matter for counting; a small one keeps the memory small
        with progress("reading") as done:
            images = load_images(self.path, size=8, limit=self.limit, progress=done)
        classes = Counter(images.class_names[i] for i in images.classes.tolist() if i >= 0)
        attributes = {
            name: {"mean": float(np.nanmean(values)), "missing": int(np.isnan(values).sum())}
            for name, values in images.attributes.items()
            if not np.isnan(values).all()
        }
        figures = {
            "n": len(images),
            "channels": images.channels,
            "sizes": dict(original_sizes(self.path).most_common()),
            "splits": dict(Counter(images.splits)),
            "classes": dict(classes),
            "attributes": attributes,
            "skipped": [{"path": path, "reason": reason} for path, reason in images.skipped],
        }
        return Report(figures=figures, notes=[*in_words(figures), *images.notes])


def original_sizes(source: str) -> Counter[str]:
    """How many files of `source` have which width and height in pixels."""
    import io

    from PIL import Image

    from zsem.data.decoding import DAMAGE
    from zsem.data.sources import open_source

    sizes: Counter[str] = Counter()
    for member in open_source(source).members():
        # What Pillow cannot open is a table of attributes, or among the skipped images
        with contextlib.suppress(*DAMAGE), Image.open(io.BytesIO(member.read())) as image:
            sizes[f"{image.width} x {image.height}"] += 1
    return sizes


def in_words(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures of `zsem data info` as lines for people."""
    yield f"{figures['n']} images, {'grey' if figures['channels'] == 1 else 'colour'}"
    for name, kind in (("sizes", "size"), ("splits", "split"), ("classes", "class")):
        counts = list(figures[name].items())
        if counts:
            more = f", and {len(counts) - LISTED} more" * (len(counts) > LISTED)
            yield f"{kind}: " + ", ".join(f"{what} ({count})" for what, count in counts[:LISTED]) + more
    for name, about in figures["attributes"].items():
        yield f"attribute {name}: mean {about['mean']:.4g}" + f", {about['missing']} missing" * (about["missing"] > 0)
    for skipped in figures["skipped"]:
        yield f"cannot be read: {skipped['path']} ({skipped['reason']})"
