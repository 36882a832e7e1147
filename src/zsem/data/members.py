"""What a source of images is: members with relative paths, and how to get the content of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from zsem.data.labels import Table

Content = bytes | np.ndarray | Image.Image
"""An image as it lies in a source: an encoded file, an array [h, w, c], or already open."""


@dataclass(frozen=True)
class Member:
    """One file of a source: its relative posix path, and how to get its content (may be called in any thread)."""

    path: str
    read: Callable[[], Content]


@runtime_checkable
class Source(Protocol):
    """Images and attribute tables with relative paths.

    paths: all of them, in any order.
    members: the same, those in `wanted` or all, in the order in which they are quickest to read.
    files: the files that all this is read from, none where it is not from files.
    name: for messages.
    wrapped: one folder may wrap everything.
    streamed: `paths` costs a pass over the whole file.
    table: what the source itself says of its images, as far as it has been read.
    """

    name: str
    wrapped: bool
    streamed: bool
    table: Table | None

    def paths(self) -> list[str]: ...

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]: ...

    def files(self) -> list[Path]: ...


def natural_key(path: str) -> tuple[list[str | int], str]:
    """Sorts img2 before img10."""
    parts = re.split(r"(\d+)", path)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path


def image_path(split: str | None, name: str | None, number: int) -> str:
    """The path of an image that has no file of its own, from its split, its class and its number."""
    parts = [split or "", re.sub(r"[/\\]+|^\.+$", "-", name or ""), f"{number:06d}"]
    return "/".join(part for part in parts if part)
