"""A folder or an archive of images as one uint8 tensor in memory, with paths, classes, attributes and splits."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from zsem.data import labels
from zsem.data.decoding import EXTENSIONS, UnreadableImageError, decode, fit, load_image
from zsem.data.labels import TABLE, Split
from zsem.data.sources import Member, Source, natural_key, open_source
from zsem.values.errors import ZsemError

__all__ = ["ImageSet", "load_image", "load_images"]

CHUNK = 4  # images per task: archives keep the bytes of two tasks per thread in memory


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one size in memory, in natural order of their paths (img2 before img10).

    pixels: uint8, [n, c, size, size].
    paths: relative posix paths within the source.
    class_names: sorted; empty for data without classes.
    classes: index into class_names, -1 = none.
    attributes: float32 [n] by name; NaN = missing.
    splits: "train", "val" or "test" for every image.
    sha256: of the files as they were read.
    source: what was read, for messages.
    skipped: (path, reason) of every image that could not be read.
    notes: further oddities worth a line to the user.
    """

    pixels: UInt8[Tensor, "n c size size"]
    paths: list[str]
    class_names: list[str]
    classes: Int64[Tensor, " n"]
    attributes: Mapping[str, np.ndarray]
    splits: list[Split]
    sha256: list[str]
    source: str
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def size(self) -> int:
        return self.pixels.shape[-1]

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """The images at `indices`, in that order; class names stay as they are."""
        return ImageSet(
            pixels=self.pixels[torch.as_tensor(list(indices), dtype=torch.long)],
            paths=[self.paths[i] for i in indices],
            class_names=self.class_names,
            classes=self.classes[torch.as_tensor(list(indices), dtype=torch.long)],
            attributes={name: values[list(indices)] for name, values in self.attributes.items()},
            splits=[self.splits[i] for i in indices],
            sha256=[self.sha256[i] for i in indices],
            source=self.source,
            skipped=self.skipped,
            notes=self.notes,
        )

    def split(self, name: Split) -> ImageSet:
        """The images of one split, perhaps none."""
        return self.subset([i for i, split in enumerate(self.splits) if split == name])

    def held_out(self) -> ImageSet:
        """The images that training does not see: `val`, or `test` where there is no val.

        ZsemError: all images are training images.
        """
        for name in ("val", "test"):
            if name in self.splits:
                return self.split(name)
        raise ZsemError(f"{self.source} has no held-out images: put some into a folder {self.source}/val")

    def limit(self, number: int | None) -> ImageSet:
        """At most `number` images, evenly spaced within every split, so that all classes and splits are seen."""
        return self if number is None else self.subset(labels.spread(self.splits, number))


def load_images(
    source: str | Path | Sequence[str | Path],
    *,
    size: int,
    channels: Literal[1, 3] | None = None,
    limit: int | None = None,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read all images of `source`, cropped to their central square and resized to `size` pixels.

    source: a folder (with all folders below it), a tar (also compressed) or zip archive, which is not unpacked, one
        image file, or a list of image files (sorted like all others). One folder that wraps everything in an archive
        is left out of the paths. Hidden files are ignored.
    channels: 1 = grey, 3 = RGB, None = 1 where every image is grey, else 3.
    limit: read at most so many images, evenly spaced over the sorted paths of every split.
    split: read only "train", "val" or "test".
    progress: called with (images read, images in all, or 0 while that is not known).

    Top-level folders `train`, `val` and `test` are the split, an image's own folder is its class, `attributes.csv`
    at the top has further labels; see `zsem.data.labels`. Images that cannot be read are left out, listed in
    `skipped`, and a warning names the first ones.

    ZsemError: no such source, no readable image, a damaged archive, an attribute table with errors.
    """
    if limit is not None and limit < 1:
        raise ZsemError(f"a limit of {limit} leaves no images: give 1 or more")
    opened = open_source(source)
    names = wanted = None
    if limit is not None or split is not None or not opened.streamed:
        names = opened.paths()
        wanted = _wanted(opened, names, limit, split)
    total = 0 if wanted is None else sum(not _is_table(path) for path in wanted)
    tables: dict[str, bytes] = {}
    read_one = functools.partial(_read_one, size=size, channels=channels)
    read = list(_read(opened.members(wanted), tables, read_one, progress, total))
    names = [file.path for file in read] + list(tables) if names is None else names
    return _assemble(opened, names, read, tables, split=split, channels=channels)


@dataclass(frozen=True)
class _File:
    """An image file that was read: pixels [c, size, size], or the reason why there are none."""

    path: str
    pixels: np.ndarray | None = None
    sha256: str = ""
    reason: str = ""


def _images(names: Iterable[str]) -> list[str]:
    return sorted((name for name in set(names) if not _is_table(name)), key=natural_key)


def _is_table(path: str) -> bool:
    return path.rpartition("/")[2] == TABLE


def _wrap(opened: Source, names: Sequence[str]) -> str:
    return labels.wrapping_folder(names) if opened.wrapped else ""


def _wanted(opened: Source, names: Sequence[str], limit: int | None, split: str | None) -> frozenset[str]:
    """The files to read: the chosen images, and the attribute table."""
    images = _images(names)
    wrap = _wrap(opened, names)
    all_splits = labels.splits([path.removeprefix(wrap) for path in images])
    places = [i for i, found in enumerate(all_splits) if split is None or found == labels.as_split(split)]
    if images and not places:
        there = ", ".join(f"{name} ({all_splits.count(name)})" for name in sorted(set(all_splits)))
        raise ZsemError(f"{opened.name} has no images in the split {split!r}, only in {there}")
    if limit is not None:
        places = [places[i] for i in labels.spread([all_splits[place] for place in places], limit)]
    tables = [name for name in names if name == wrap + TABLE]
    return frozenset([*(images[place] for place in places), *tables])


def _read(
    members: Iterable[Member],
    tables: dict[str, bytes],
    read_one: Callable[[Member], _File],
    progress: Callable[[int, int], None] | None,
    total: int,
) -> Iterator[_File]:
    """Decode in parallel threads, in the order of `members`; attribute tables go into `tables`."""

    def images() -> Iterator[Member]:
        for member in members:
            if not _is_table(member.path):
                yield member
                continue
            try:
                tables[member.path] = member.read()
            except (OSError, UnreadableImageError) as error:
                raise ZsemError(f"{member.path} cannot be read: {error}") from None

    def work(chunk: Sequence[Member]) -> list[_File]:
        return [read_one(member) for member in chunk]

    workers = os.cpu_count() or 1
    waiting: deque[Future[list[_File]]] = deque()
    queue = images()
    done = 0
    # Pillow warns of oddities in files without naming them; files that it cannot read are named by us
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        while True:
            chunk = list(itertools.islice(queue, CHUNK))
            if chunk:
                waiting.append(pool.submit(work, chunk))
            if waiting and (not chunk or len(waiting) > 2 * workers):
                finished = waiting.popleft().result()
                done += len(finished)
                yield from finished
                if progress:
                    progress(done, total)
            if not chunk and not waiting:
                return


def _read_one(member: Member, size: int, channels: int | None) -> _File:
    try:
        data = member.read()
        image = decode(data)
        if channels is not None:
            image = image.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(fit(image, size))
    except UnreadableImageError as error:
        return _File(member.path, reason=str(error))
    except OSError as error:
        return _File(member.path, reason=error.strerror or str(error))
    if channels is None and pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return _File(member.path, pixels, hashlib.sha256(data).hexdigest())


def _assemble(
    opened: Source,
    names: Sequence[str],
    read: Sequence[_File],
    tables: Mapping[str, bytes],
    *,
    split: str | None,
    channels: int | None,
) -> ImageSet:
    wrap = _wrap(opened, names)
    files = {file.path: file for file in sorted(read, key=lambda file: natural_key(file.path))}
    skipped = [(path.removeprefix(wrap), file.reason) for path, file in files.items() if file.reason]
    good = {path.removeprefix(wrap): file for path, file in files.items() if file.pixels is not None}
    if not good:
        if skipped:
            raise ZsemError(
                f"{opened.name} has no image that can be read: {skipped[0][0]} is {skipped[0][1]}"
                + (f", and {len(skipped) - 1} more fail" if len(skipped) > 1 else "")
            )
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise ZsemError(f"{opened.name} holds no images (looked for {kinds})")
    if skipped:
        first = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        warnings.warn(f"{len(skipped)} of {len(files)} images of {opened.name} were left out: {first}", stacklevel=3)
    known = [path.removeprefix(wrap) for path in _images(names)]
    broken = {path for path, _ in skipped}
    readable = [path for path in known if path not in broken]
    split_of = dict(zip(readable, labels.splits(readable), strict=True))
    class_names, numbers = labels.classes(readable)
    class_of = dict(zip(readable, numbers, strict=True))
    pixels = [file.pixels for file in good.values() if file.pixels is not None]
    notes = _notes(readable, pixels, channels)
    attributes: dict[str, np.ndarray] = {}
    if (table := tables.get(wrap + TABLE)) is not None:
        attributes, more = labels.attribute_table(table, list(good), frozenset(known))
        notes += more
    return ImageSet(
        pixels=_stack(pixels, channels),
        paths=list(good),
        class_names=class_names,
        classes=torch.tensor([int(class_of[path]) for path in good], dtype=torch.int64),
        attributes=attributes,
        splits=[split_of[path] if split is None else labels.as_split(split) for path in good],
        sha256=[file.sha256 for file in good.values()],
        source=opened.name,
        skipped=skipped,
        notes=notes,
    )


def _notes(readable: Sequence[str], pixels: Sequence[np.ndarray], channels: int | None) -> list[str]:
    notes = []
    coloured = sum(len(image) == 3 for image in pixels)
    if channels is None and 0 < coloured < len(pixels) / 2:
        notes.append(f"{coloured} of {len(pixels)} images have colours, so all are RGB; ask for 1 channel to have grey")
    if stray := labels.outside_splits(readable):
        notes.append(f"{len(stray)} images outside train, val and test are training images, e.g. {stray[0]}")
    return notes


def _stack(pixels: list[np.ndarray], channels: int | None) -> UInt8[Tensor, "n c size size"]:
    channels = channels or max(len(image) for image in pixels)
    out = np.empty((len(pixels), channels, *pixels[0].shape[1:]), dtype=np.uint8)
    for row, image in zip(out, pixels, strict=True):
        row[:] = image  # grey is repeated where the set is RGB
    return torch.from_numpy(out)
