"""A folder or an archive of images as one tensor, with paths, classes, groups, attributes and splits."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int64, Shaped, UInt8, UInt16
from torch import Tensor
from torch.utils.data import Dataset

from zsem.data import cache, labels
from zsem.data.decoding import EXTENSIONS, load_image
from zsem.data.labels import TABLE, Split, Table
from zsem.data.limits import UnreadableImageError
from zsem.data.members import Source, natural_key
from zsem.data.reading import Contents, File, Options, Original, Reading, agree, is_table, read_members, read_table_file
from zsem.data.shaping import Depth, depth_of, sides
from zsem.data.sources import open_source
from zsem.values.errors import ZsemError

__all__ = ["ImageSet", "load_image", "load_images"]

Pixels = UInt8[Tensor, "n c h w"] | UInt16[Tensor, "n c h w"] | Int16[Tensor, "n c h w"] | Float32[Tensor, "n c h w"]
"""Images as they are kept, in one of four depths; `zsem.data.intensity` brings them to [-1, 1]."""
TOO_MANY = 10
"""So many broken images stop a reading where they are more than half of all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images of one size in memory, in natural order of their paths (img2 before img10).

    pixels: [n, c, h, w] as the files have them: uint8, uint16, int16 or float32.
    paths: relative posix paths within the source.
    class_names: sorted; empty for data without classes.
    classes: index into class_names, -1 = none.
    attributes: float32 [n] by name; NaN = missing.
    splits: "train", "val" or "test" for every image.
    sha256: of the files as they were read.
    source: what was read, for messages.
    groups: what belongs together (patient, slide, video), "" = nothing; empty for data without groups.
    originals: what the images were before they were cropped and resized.
    skipped: (path, reason) of every image that could not be read.
    notes: further oddities worth a line to the user.
    mapped: the pixels lie in a file that is mapped, because they are too many for the memory.
    """

    pixels: Pixels
    paths: list[str]
    class_names: list[str]
    classes: Int64[Tensor, " n"]
    attributes: Mapping[str, np.ndarray]
    splits: list[Split]
    sha256: list[str]
    source: str
    groups: list[str] = field(default_factory=list)
    originals: list[Original] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mapped: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def size(self) -> int | tuple[int, int]:
        """The side of square images, else (height, width)."""
        height, width = self.pixels.shape[-2:]
        return height if height == width else (height, width)

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    @property
    def depth(self) -> Depth:
        """The type of the pixels."""
        return depth_of(self.pixels[:0].numpy())

    def subset(self, indices: Sequence[int]) -> ImageSet:
        """The images at `indices`, in that order; class names stay as they are."""
        index = torch.as_tensor(list(indices), dtype=torch.long)
        mapped = self.mapped and len(indices) > 0
        return ImageSet(
            pixels=cache.gathered(self.pixels, indices) if mapped else self.pixels[index],
            paths=[self.paths[i] for i in indices],
            class_names=self.class_names,
            classes=self.classes[index],
            attributes={name: values[list(indices)] for name, values in self.attributes.items()},
            splits=[self.splits[i] for i in indices],
            sha256=[self.sha256[i] for i in indices],
            source=self.source,
            groups=[self.groups[i] for i in indices] if self.groups else [],
            originals=[self.originals[i] for i in indices] if self.originals else [],
            skipped=self.skipped,
            notes=self.notes,
            mapped=mapped,
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
    source: str | Path | Sequence[str | Path] | Dataset,
    *,
    size: int | tuple[int, int] | None,
    channels: int | None = None,
    depth: Depth | None = None,
    background: str = "white",
    group: str | None = None,
    limit: int | None = None,
    split: str | None = None,
    memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read all images of `source`, cropped at the centre and resized.

    source: a folder (with all folders below it), a tar (also compressed) or zip archive, which is not unpacked, one
        image file, a list of image files (sorted like all others); Parquet tables with encoded images (one, or a folder
        of them), a npz file or a npy file of four axes, a folder of idx files (MNIST's); a torch Dataset. One folder
        that wraps everything in an archive is left out of the paths. Hidden files are ignored.
    size: side of the square images, or (height, width); None = as they are, which must then be one size.
    channels: 1 = grey, 3 = RGB, else what the images must have; None = 1 where every image is grey, 3 where they are
        grey or RGB, else what most images have. The pages of a TIFF file, and the shorter end of a npy array [c, h, w]
        or [h, w, c], are channels.
    depth: uint8, uint16, int16 or float32; None = as the images have it (others become float32 without loss).
    background: colour behind transparent pixels.
    group: the column of the attribute table that names what belongs together, so that no split divides it; None = the
        one named `group`, where there is one.
    limit: read at most so many images, evenly spaced over the sorted paths of every split.
    split: read only "train", "val" or "test".
    memory: bytes of pixels to hold in memory; None = a quarter of what is free. More pixels are mapped from a file in
        the folder ZSEM_CACHE, where they are found again the next time.
    progress: called with (images read, images in all, or 0 while that is not known).

    Top-level folders `train`, `val` and `test` are the split, an image's own folder is its class, `attributes.csv`
    at the top has further labels; see `zsem.data.labels`. Images that cannot be read are left out, listed in
    `skipped`, and a warning names the first ones.

    ZsemError: no such source, no readable image, more than half of the images (and ten) broken, images of several
    depths, a damaged archive, an attribute table with errors.
    """
    if limit is not None and limit < 1:
        raise ZsemError(f"a limit of {limit} leaves no images: give 1 or more")
    options = Options(size=None if size is None else sides(size), channels=channels, depth=depth, background=background)
    if options.size is not None and min(options.size) < 1:
        raise ZsemError(f"images of {options.size[0]} x {options.size[1]} pixels cannot be: give a size of 1 or more")
    opened = open_source(source, group=group)
    settings = repr((options, limit, split, group))
    reading = cache.find(opened, settings)
    if reading is None:
        memory = cache.memory_for_pixels() if memory is None else memory
        reading = _read(opened, options, settings, memory, group=group, limit=limit, split=split, progress=progress)
    _warn(opened.name, reading.contents.files)
    return _assemble(opened, reading, group=group, split=split)


def load_originals(
    source: str | Path | Sequence[str | Path] | Dataset, images: ImageSet, *, background: str = "white"
) -> Iterator[tuple[int, Shaped[Tensor, "c h w"]]]:
    """The images of a set as they were before they were cropped and resized, one at a time: position, stored values.

    source: what `images`, or the set that it is a part of, was loaded from. Channels and depth are those of the set.
    The order is that in which they are quickest to read. ZsemError: one cannot be read any more.
    """
    opened = open_source(source)
    wrap = _wrap(opened, opened.paths())
    wanted = {wrap + path: place for place, path in enumerate(images.paths)}
    for member in opened.members(frozenset(wanted)):
        try:
            content = member.read()
        except (OSError, UnreadableImageError) as error:
            raise ZsemError(f"{member.path} cannot be read: {error}") from None
        yield (
            wanted[member.path],
            load_image(content, None, images.channels, depth=images.depth, background=background),
        )


def held_out_name(source: str | Path) -> Split:
    """Which split of a source training does not see: val, or test where it has images for test and none for val."""
    opened = open_source(source)
    names = opened.paths()
    wrap = _wrap(opened, names)
    found = labels.splits([path.removeprefix(wrap) for path in _images(names)])
    return "test" if "test" in found and "val" not in found else "val"


def _images(names: Iterable[str]) -> list[str]:
    return sorted((name for name in set(names) if not is_table(name)), key=natural_key)


def _wrap(opened: Source, names: Sequence[str]) -> str:
    return labels.wrapping_folder(names) if opened.wrapped else ""


def _read(
    opened: Source,
    options: Options,
    settings: str,
    memory: int,
    *,
    group: str | None,
    limit: int | None,
    split: str | None,
    progress: Callable[[int, int], None] | None,
) -> Reading:
    """Decode what is asked for, into memory or into the cache."""
    names = wanted = None
    if limit is not None or split is not None or not opened.streamed:
        names = opened.paths()
        wanted = _wanted(opened, names, group, limit, split)
    total = 0 if wanted is None else sum(not is_table(path) for path in wanted)
    tables: dict[str, bytes] = {}
    files: dict[str, File] = {}
    places: dict[str, int] = {}
    with contextlib.closing(cache.Store(memory)) as store:
        for file, pixels in read_members(opened.members(wanted), tables, options, progress, total):
            files[file.path] = file
            if pixels is not None:
                places[file.path] = len(store.kinds)
                store.append(pixels)
        read = [files[path] for path in sorted(files, key=natural_key)]
        _stop_where_hopeless(opened, read)
        shapes = {path: store.kinds[place] for path, place in places.items()}
        common, read, notes = agree(read, shapes, options, opened.name)
        _stop_where_hopeless(opened, read)
        order = [places[file.path] for file in read if not file.reason]
        names = [*files, *tables] if names is None else names
        about = Contents(names=names, tables=tables, files=read, notes=notes)
        if store.spilled:
            return cache.keep(opened, settings, store.rows(order), common, about)
        return Reading(contents=about, pixels=cache.stacked(store.rows(order), len(order), common), mapped=False)


def _wanted(
    opened: Source, names: Sequence[str], group: str | None, limit: int | None, split: str | None
) -> frozenset[str]:
    """The files to read: the chosen images, and the attribute table."""
    images = _images(names)
    wrap = _wrap(opened, names)
    tables = [name for name in names if name == wrap + TABLE]
    if limit is None and split is None:
        return frozenset([*images, *tables])
    if split is not None:
        labels.as_split(split)
    data = {member.path: read_table_file(member) for member in opened.members(frozenset(tables))} if tables else {}
    groups = _groups(_table(opened, data.get(wrap + TABLE), group), group, opened.name)
    all_splits = labels.splits([path.removeprefix(wrap) for path in images], groups)
    places = [i for i, found in enumerate(all_splits) if split is None or found == split]
    if images and not places:
        there = ", ".join(f"{name} ({all_splits.count(name)})" for name in sorted(set(all_splits)))
        raise ZsemError(f"{opened.name} has no images in the split {split!r}, only in {there}")
    if limit is not None:
        places = [places[i] for i in labels.spread([all_splits[place] for place in places], limit)]
    return frozenset([*(images[place] for place in places), *tables])


def _table(opened: Source, data: bytes | None, group: str | None) -> Table | None:
    return opened.table if data is None else labels.read_table(data, group)


def _groups(table: Table | None, group: str | None, name: str) -> Mapping[str, str]:
    if table is None and group is not None:
        raise ZsemError(f"{name} has no {TABLE} with a column {group!r} to group by")
    return {} if table is None else table.groups


def _stop_where_hopeless(opened: Source, files: Sequence[File]) -> None:
    """ZsemError: no images, none that can be read, or more broken ones than anyone can have meant."""
    broken = [file for file in files if file.reason]
    if not files:
        kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise ZsemError(f"{opened.name} holds no images (looked for {kinds})")
    first = f"{broken[0].path} is {broken[0].reason}" if broken else ""
    if len(broken) == len(files):
        more = f", and {len(broken) - 1} more fail" if len(broken) > 1 else ""
        raise ZsemError(f"{opened.name} has no image that can be read: {first}{more}")
    if len(broken) >= TOO_MANY and len(broken) > len(files) / 2:
        raise ZsemError(
            f"{len(broken)} of {len(files)} images of {opened.name} cannot be read, e.g. {first}: "
            "mend them, or take them out of there"
        )


def _warn(name: str, files: Sequence[File]) -> None:
    skipped = [file for file in files if file.reason]
    if skipped:
        first = "; ".join(f"{file.path}: {file.reason}" for file in skipped[:3])
        warnings.warn(f"{len(skipped)} of {len(files)} images of {name} were left out: {first}", stacklevel=3)


def _assemble(opened: Source, reading: Reading, *, group: str | None, split: str | None) -> ImageSet:
    about = reading.contents
    wrap = _wrap(opened, about.names)
    good = {file.path.removeprefix(wrap): file for file in about.files if not file.reason}
    skipped = [(file.path.removeprefix(wrap), file.reason) for file in about.files if file.reason]
    known = [path.removeprefix(wrap) for path in _images(about.names)]
    broken = {path for path, _ in skipped}
    readable = [path for path in known if path not in broken]
    table = _table(opened, about.tables.get(wrap + TABLE), group)
    groups = _groups(table, group, opened.name)
    split_of = dict(zip(readable, labels.splits(readable, groups), strict=True))
    class_names, numbers = labels.classes(readable)
    class_of = dict(zip(readable, numbers, strict=True))
    notes = list(about.notes)
    if stray := labels.outside_splits(readable):
        notes.append(f"{len(stray)} images outside train, val and test are training images, e.g. {stray[0]}")
    if divided := labels.divided_groups(split_of, groups):
        notes.append(f"the folders put images of {len(divided)} groups into several splits, e.g. of {divided[0]}")
    attributes: dict[str, np.ndarray] = {}
    if table is not None:
        attributes, more = table.columns(list(good), frozenset(known))
        notes += more
    return ImageSet(
        pixels=reading.pixels,
        paths=list(good),
        class_names=class_names,
        classes=torch.tensor([int(class_of[path]) for path in good], dtype=torch.int64),
        attributes=attributes,
        splits=[split_of[path] if split is None else labels.as_split(split) for path in good],
        sha256=[file.sha256 for file in good.values()],
        source=opened.name,
        groups=[groups.get(path, "") for path in good] if groups else [],
        originals=[file.original for file in good.values() if file.original is not None],
        skipped=skipped,
        notes=notes,
        mapped=reading.mapped,
    )
