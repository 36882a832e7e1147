"""A `torch.utils.data.Dataset` as a source of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from zsem.data.labels import Table
from zsem.data.limits import UnreadableImageError
from zsem.data.members import Content, Member, image_path
from zsem.values.errors import ZsemError

IMAGE_KEYS = ("image", "img", "pixel_values", "x")
LABEL_KEYS = ("label", "labels", "class", "target", "y")


class Items:
    """The items of a data set: an image, (image, label, ...), or a dictionary such as {"image": ..., "label": ...}.

    An image is a Pillow image, encoded bytes, a path, an array [h, w] or [h, w, c], or a tensor [h, w] or [c, h, w]. A
    label that is a whole number or a text is a class; further numbers of a dictionary are attributes.
    """

    wrapped = False
    streamed = True

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.name = f"the given {type(data).__name__}"
        self.table: Table | None = None

    def paths(self) -> list[str]:
        return [path for path, _ in self._items()]

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        for path, content in self._items():
            if wanted is None or path in wanted:
                yield Member(path, content)

    def files(self) -> list[Path]:
        return []

    def _items(self) -> Iterator[tuple[str, Callable[[], Content]]]:
        names = getattr(self.data, "classes", None)
        names = list(names) if isinstance(names, (list, tuple)) else []
        rows: dict[str, dict[str, float]] = {}
        for number, item in enumerate(self._each()):
            if isinstance(item, OSError):
                yield image_path(None, None, number), _failure(item.strerror or str(item))
                continue
            image, label, numbers = _parts(item)
            path = image_path(None, _class(label, names), number)
            rows |= {path: numbers} if numbers else {}
            yield path, self._content(image, number)
        columns = sorted({name for row in rows.values() for name in row})
        if columns:
            values = {path: [row.get(name, math.nan) for name in columns] for path, row in rows.items()}
            self.table = Table(names=columns, rows=values)

    def _each(self) -> Iterator[Any]:
        """The items; an OSError (Pillow's too) in place of one that cannot be read."""
        if isinstance(self.data, IterableDataset):
            yield from self.data
            return
        length = getattr(self.data, "__len__", None)
        if length is None:
            raise ZsemError(f"{self.name} has no length: give it a __len__, or make it an IterableDataset")
        for number in range(length()):
            try:
                item = self.data[number]
            except OSError as error:
                item = error
            yield item

    def _content(self, image: Any, number: int) -> Callable[[], Content]:
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
            image = image.transpose(1, 2, 0) if image.ndim == 3 else image
        if isinstance(image, np.ndarray):
            if image.ndim not in {2, 3} or image.size == 0:
                return _failure(f"an array {list(image.shape)}, where an image has 2 or 3 axes")
            image = image[:, :, None] if image.ndim == 2 else image
        if isinstance(image, (bytes, np.ndarray, Image.Image)):
            return lambda: image
        if isinstance(image, (str, Path)):
            return Path(image).read_bytes
        raise ZsemError(
            f"item {number} of {self.name} has a {type(image).__name__} where an image should be: "
            "give a Pillow image, an array, a tensor or a path"
        )


def _failure(reason: str) -> Callable[[], Content]:
    def read() -> Content:
        raise UnreadableImageError(reason)

    return read


def _parts(item: Any) -> tuple[Any, Any, dict[str, float]]:
    """Image, label and further numbers of an item."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        label = next((key for key in LABEL_KEYS if key in item), None)
        numbers = {
            str(name): float(value)
            for name, value in item.items()
            if name not in {key, label} and (_number(value) is not None)
        }
        return (None if key is None else item[key]), (None if label is None else item[label]), numbers
    if isinstance(item, (tuple, list)) and item:
        return item[0], (item[1] if len(item) > 1 else None), {}
    return item, None, {}


def _number(value: Any) -> float | None:
    """A number, also where it is an array or tensor of one."""
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.item() if value.ndim == 0 else None
    return float(value) if isinstance(value, (bool, int, float, np.number)) else None


def _class(label: Any, names: list[Any]) -> str | None:
    """The class's name of a label that is a whole number or a text."""
    if isinstance(label, str):
        return label or None
    number = _number(label)
    if number is None or number < 0 or not number.is_integer():
        return None
    return str(names[int(number)]) if number < len(names) else str(int(number))
