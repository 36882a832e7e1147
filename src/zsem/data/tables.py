"""Images in Parquet tables, as the Hugging Face hub keeps them: a column of encoded images, columns of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsem.data.labels import GROUP, SPLIT_FOLDERS, Split, Table
from zsem.data.limits import UnreadableImageError
from zsem.data.members import Content, Member, image_path
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = ".parquet"
BATCH = 16
"""Rows read at a time: each may be a large photograph."""
IMAGE_NAMES = ("image", "img", "images", "picture", "jpg", "png")
CLASS_NAMES = ("label", "labels", "class", "target", "fine_label")


class ParquetFiles:
    """The rows of Parquet files of one layout.

    Images are a column of struct{bytes, path}, or of bytes. The column `label` (or the first one that has class names)
    is the class, other numbers are attributes, the column to group by holds what belongs together. Files (or folders)
    whose names begin with train, validation or test are that split.
    """

    wrapped = False
    streamed = False

    def __init__(self, files: Sequence[Path], name: str, group: str | None = None) -> None:
        self.name = name
        self._files = list(files)
        with _named(self._files[0]):
            schema = self._open(self._files[0]).schema_arrow
        self._image = _image_column(schema, name)
        if group is not None and group not in schema.names:
            raise ZsemError(f"{name} has no column {group!r} to group by: choose one of {', '.join(schema.names)}")
        self._group = group or (GROUP if GROUP in schema.names else None)
        self._names = _class_names(schema)
        self._class = _class_column(schema, self._names)
        self._numbers = [
            field.name for field in schema if _is_number(field.type) and field.name not in {self._class, self._group}
        ]
        self._paths: list[list[str]] = []
        rows: dict[str, list[float]] = {}
        groups: dict[str, str] = {}
        for file in self._files:
            with _named(file):
                self._read_labels(file, rows, groups)
        self.table: Table | None = None
        if self._numbers or self._group:
            self.table = Table(names=self._numbers, rows=rows, groups=groups)

    def _open(self, file: Path) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(file)

    def _read_labels(self, file: Path, rows: dict[str, list[float]], groups: dict[str, str]) -> None:
        """Everything but the images of one file."""
        parquet = self._open(file)
        wanted = [*self._numbers, *(name for name in (self._class, self._group) if name)]
        table = parquet.read(columns=wanted)
        columns = {name: table.column(name).to_pylist() for name in wanted}
        offset = sum(map(len, self._paths))
        paths: list[str] = []
        for row in range(parquet.metadata.num_rows):
            name = self._class_name(columns[self._class][row]) if self._class else None
            path = image_path(_split(file), name, offset + row)
            paths.append(path)
            rows[path] = [self._value(column, columns[column][row]) for column in self._numbers]
            if self._group and (value := columns[self._group][row]) not in {None, ""}:
                groups[path] = str(value)
        self._paths.append(paths)

    def _class_name(self, value: Any) -> str | None:
        """The class of a cell; none where it is empty, or -1 as in test sets without labels."""
        if value is None or value == "" or (isinstance(value, int) and value < 0):
            return None
        names = self._names.get(self._class or "", [])
        return str(names[value]) if isinstance(value, int) and value < len(names) else str(value)

    def _value(self, column: str, value: Any) -> float:
        if value is None or (value == -1 and column in self._names) or not math.isfinite(value):
            return math.nan
        return float(value)

    def paths(self) -> list[str]:
        return [path for paths in self._paths for path in paths]

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        for file, paths in zip(self._files, self._paths, strict=True):
            if wanted is not None and wanted.isdisjoint(paths):
                continue
            remaining = iter(paths)
            batches = self._open(file).iter_batches(batch_size=BATCH, columns=[self._image])
            with _named(file):
                for batch in batches:
                    for cell in batch.column(self._image):
                        path = next(remaining)
                        if wanted is None or path in wanted:
                            yield Member(path, lambda cell=cell: _content(cell.as_py()))

    def files(self) -> list[Path]:
        return self._files


def _content(cell: Any) -> Content:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(data, bytes):
        return data
    reason = "no image in its row" if not cell else "its row has the path of a file, not the image"
    raise UnreadableImageError(reason)


def _split(file: Path) -> Split | None:
    """The split that a file's name begins with (train-00000-of-00001.parquet), or its folder's."""
    start = file.stem.lower().replace("_", "-").split("-")[0]
    return SPLIT_FOLDERS.get(start) or SPLIT_FOLDERS.get(file.parent.name.lower())


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _image_column(schema: pa.Schema, name: str) -> str:
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" for field in kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    found = [field.name for field in schema if holds_bytes(field.type)]
    if not found:
        raise ZsemError(f"{name} has no column of encoded images (struct of bytes and path), only {schema.names}")
    return next((wanted for wanted in IMAGE_NAMES if wanted in found), found[0])


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of classes by column, where the Hugging Face hub's description in the schema has some."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: list(about["names"]) for name, about in features.items() if about.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_column(schema: pa.Schema, names: dict[str, list[str]]) -> str | None:
    import pyarrow as pa

    def can_be(column: str) -> bool:
        kind = schema.field(column).type
        return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)

    candidates = [name for name in (*CLASS_NAMES, *names) if name in schema.names and can_be(name)]
    return candidates[0] if candidates else None


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Says which file is damaged where pyarrow finds one so."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ZsemError(f"{file} is damaged or not a Parquet table ({text}): fetch it again") from None
