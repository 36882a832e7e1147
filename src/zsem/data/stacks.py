"""Many images in one array: npz and npy files, and idx files as those of MNIST and Fashion-MNIST."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsem.data import arrays
from zsem.data.labels import SPLIT_FOLDERS, Split, Table
from zsem.data.limits import DAMAGE, UnreadableImageError
from zsem.data.members import Member, image_path
from zsem.data.shaping import channels_last
from zsem.values.errors import ZsemError

IDX = re.compile(r"(?:(.+)-)?(images|labels)[-.]idx\d-ubyte(?:\.gz)?")
SEVERAL = 4
"""Axes of an array of several images in a npy file."""
IMAGE_WORDS = frozenset(("image", "images", "imgs", "img", "x", "data"))
LABEL_WORDS = frozenset(("label", "labels", "y", "target", "targets", "classes"))
SPLIT_WORDS: dict[str, Split] = {**SPLIT_FOLDERS, "training": "train", "t10k": "test"}


@dataclass(frozen=True)
class Part:
    """Images [n, ...] of one split (None = not told), and their labels [n] or [n, k]."""

    split: Split | None
    images: np.ndarray
    labels: np.ndarray | None = None


class Stack:
    """Images that lie in arrays: whole numbers beside them are classes, other numbers and [n, k] attributes."""

    wrapped = False
    streamed = False

    def __init__(self, name: str, files: Sequence[Path], parts: Sequence[Part]) -> None:
        self.name = name
        self._files = list(files)
        self._rows: dict[str, tuple[np.ndarray, int]] = {}
        names: list[str] = []
        values: dict[str, list[float]] = {}
        for part in parts:
            number, labels = len(part.images), part.labels
            if labels is not None and labels.ndim > 1 and labels.shape[1:] == (1,) * (labels.ndim - 1):
                labels = labels.reshape(-1)
            if labels is not None and (len(labels) != number or labels.ndim > 2 or labels.dtype.kind not in "buif"):
                raise ZsemError(f"{name} has {number} images, and labels {list(labels.shape)} of {labels.dtype}")
            classes = labels if labels is not None and labels.ndim == 1 and labels.dtype.kind in "bui" else None
            offset = len(self._rows)
            paths = [
                image_path(part.split, None if classes is None or classes[i] < 0 else str(int(classes[i])), offset + i)
                for i in range(number)
            ]
            self._rows |= {path: (part.images, i) for i, path in enumerate(paths)}
            if labels is not None and classes is None:
                columns = labels.reshape(number, -1).astype(np.float64)
                names = [f"label_{i}" for i in range(columns.shape[1])]
                values |= dict(zip(paths, columns.tolist(), strict=True))
        self.table: Table | None = Table(names=names, rows=values) if names else None

    def paths(self) -> list[str]:
        return list(self._rows)

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        for path, (images, row) in self._rows.items():
            if wanted is None or path in wanted:
                yield Member(path, lambda images=images, row=row: channels_last(images[row]))

    def files(self) -> list[Path]:
        return self._files


def axes_of(path: Path) -> int:
    """The number of axes of the array in a npy file, 0 where it cannot be read."""
    try:
        return arrays.map_npy(path).ndim
    except (UnreadableImageError, *DAMAGE):
        return 0


def open_numpy(path: Path) -> Stack:
    """The images of a npz file, or of a npy file [n, h, w, c] or [n, c, h, w].

    Arrays of a npz file are told by their names, as Keras (x_train, y_train), MedMNIST (train_images, train_labels) and
    others write them; where none has such a name, the one array of three or four axes counts.
    ZsemError: damaged, or no telling which array holds the images.
    """
    try:
        found = arrays.read_npz(path) if path.suffix.lower() == ".npz" else {"x": arrays.map_npy(path)}
    except (UnreadableImageError, *DAMAGE) as error:
        raise ZsemError(f"{path} cannot be read: {error or type(error).__name__}") from None
    kinds = {name: _meaning(name) for name in found}
    stacked = [name for name, array in found.items() if array.ndim in {3, 4} and len(array)]
    images = [name for name in stacked if kinds[name][0] == "images"] or (stacked if len(stacked) == 1 else [])
    if not images:
        there = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items()) or "nothing"
        raise ZsemError(f"{path} has no array named images or x, [n, h, w] or [n, h, w, c], only {there}: rename one")
    parts = []
    for name in images:
        split = kinds[name][1]
        labels = [array for other, array in found.items() if kinds[other] == ("labels", split)]
        parts.append(Part(split, found[name], labels[0] if labels else None))
    return Stack(str(path), [path], parts)


def _meaning(name: str) -> tuple[str, Split | None]:
    """What an array holds ("images", "labels", or "" where its name does not tell), and of which split."""
    words = re.split(r"[_\W]+", name.lower())
    splits: list[Split] = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    split = splits[0] if splits else None
    rest = [word for word in words if word not in SPLIT_WORDS]
    if len(rest) == 1 and rest[0] in LABEL_WORDS:
        return "labels", split
    return ("images" if not rest or (len(rest) == 1 and rest[0] in IMAGE_WORDS) else ""), split


def open_idx(files: Sequence[Path], name: str) -> Stack:
    """The images of idx files, and the labels beside them: train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz.

    ZsemError: damaged, or no images among them.
    """
    found: dict[tuple[str, str], np.ndarray] = {}
    for path in files:
        match = IDX.fullmatch(path.name.lower())
        assert match is not None
        beside = path.with_name(re.sub(r"images([-.]idx)\d", r"labels\g<1>1", path.name))
        for file, what in ((path, match[2]), *([(beside, "labels")] if beside.exists() else [])):
            try:
                found[match[1] or "", what] = arrays.read_idx(file)
            except (UnreadableImageError, *DAMAGE) as error:
                raise ZsemError(f"{file} cannot be read: {error or type(error).__name__}; fetch it again") from None
    parts = []
    for (prefix, what), array in found.items():
        if what == "images":
            split = SPLIT_WORDS.get(prefix.split("-")[-1])
            parts.append(Part(split, array, found.get((prefix, "labels"))))
    if not parts:
        raise ZsemError(f"{name} has labels, but no images: put the file of images beside it")
    return Stack(name, files, parts)
