"""What is known about images from their paths and from `attributes.csv`: split, class, group, attributes."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, cast

import numpy as np

from zsem.values.errors import ZsemError

Split = Literal["train", "val", "test"]

TABLE = "attributes.csv"
GROUP = "group"
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
VAL_SHARE = 0.1


def wrapping_folder(paths: Sequence[str]) -> str:
    """The one top-level folder that all `paths` lie in, with its slash, or "" (a split folder does not count)."""
    tops = {path.split("/")[0] for path in paths}
    if len(tops) == 1 and all("/" in path for path in paths) and not tops & set(SPLIT_FOLDERS):
        return tops.pop() + "/"
    return ""


def has_split_folders(paths: Sequence[str]) -> bool:
    """Whether top-level folders named train, val or test are splits rather than classes.

    They are where all images lie in such folders, or where there is `train` and another one beside other folders.
    """
    tops = {path.split("/")[0] if "/" in path else "" for path in paths}
    return bool(tops) and (tops <= set(SPLIT_FOLDERS) or ("train" in tops and len(tops & set(SPLIT_FOLDERS)) > 1))


def splits(paths: Sequence[str], groups: Mapping[str, str] | None = None) -> list[Split]:
    """The split of every image.

    It is given by top-level folders `train`, `val` (`valid`, `validation`), `test`, beside which all else is for
    training. Where there are none, or `train` alone, a hash of each image's group, or of its path where it has none,
    puts about 10 % into val, so that images added later move none of the others. A set of two groups or more has at
    least one for training and one held out.

    groups: group by path.
    """
    if has_split_folders(paths) and {path.split("/")[0] for path in paths} != {"train"}:
        return [SPLIT_FOLDERS.get(path.split("/")[0], "train") if "/" in path else "train" for path in paths]
    chance = [_chance((groups or {}).get(path, path)) for path in paths]
    result: list[Split] = ["val" if value < VAL_SHARE else "train" for value in chance]
    if len(set(chance)) > 1 and len(set(result)) == 1:
        alone = min(chance) if result[0] == "train" else max(chance)
        other: Split = "val" if result[0] == "train" else "train"
        result = [other if value == alone else split for value, split in zip(chance, result, strict=True)]
    return result


def outside_splits(paths: Sequence[str]) -> list[str]:
    """The images beside the split folders, where there are split folders."""
    inside = tuple(f"{name}/" for name in SPLIT_FOLDERS)
    return [path for path in paths if not path.startswith(inside)] if has_split_folders(paths) else []


def _chance(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:7]) / 2**56


def classes(paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Sorted class names, and every image's class index (int64, -1 = none).

    An image's own folder is its class, unless it is the root or a split folder. When all images lie in one
    folder there are no classes.
    """
    below = [_below_split(path) for path in paths] if has_split_folders(paths) else paths
    own = [PurePosixPath(path).parent.name for path in below]
    if len({PurePosixPath(path).parent for path in below}) == 1:
        own = [""] * len(own)
    names = sorted(set(own) - {""})
    number = {name: index for index, name in enumerate(names)}
    return names, np.array([number.get(name, -1) for name in own], dtype=np.int64)


def _below_split(path: str) -> str:
    top, _, rest = path.partition("/")
    return rest if rest and top in SPLIT_FOLDERS else path


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a table says of images, by relative path.

    names: of the attributes.
    rows: an attribute value for each name; NaN = missing.
    groups: the group (patient, slide, video) of an image, where it is known.
    texts: columns that hold texts, and are neither.
    """

    names: list[str]
    rows: Mapping[str, Sequence[float]]
    groups: Mapping[str, str] = field(default_factory=dict)
    texts: Sequence[str] = ()

    def columns(self, paths: Sequence[str], known: frozenset[str]) -> tuple[dict[str, np.ndarray], list[str]]:
        """A float32 column per attribute for `paths` (NaN = missing), and notes.

        known: all images of the source; rows about other files are counted in a note.
        """
        missing = [math.nan] * len(self.names)
        values = np.array([self.rows.get(path, missing) for path in paths], dtype=np.float32)
        values = values.reshape(len(paths), len(self.names))
        notes = [f"{TABLE} has texts in the column {name}, which is no attribute" for name in self.texts]
        if unknown := sorted(set(self.rows) - known):
            notes.append(f"{TABLE} has {len(unknown)} rows about images that are not there, e.g. {unknown[0]}")
        if bare := len(set(paths) - set(self.rows)):
            notes.append(f"{TABLE} has no row for {bare} of {len(paths)} images")
        return {name: values[:, column] for column, name in enumerate(self.names)}, notes


def read_table(data: bytes, group: str | None = None) -> Table:
    """Read `attributes.csv`.

    data: the file: a header, then rows of a relative path and 0/1 or real numbers; blank cells are missing. A column
        without any number is one of texts.
    group: the column whose texts say what belongs together; by default the one named `group`, where there is one.

    ZsemError: no columns, a row of another length, a path given twice, a cell that is not a number, no such group.
    """
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ZsemError(f"{TABLE} cannot be read as a comma-separated table in UTF-8: {error}") from None
    header = [cell.strip() for cell in lines[0]] if lines else []
    names = header[1:]
    if not names or "" in names or len(set(names)) != len(names):
        raise ZsemError(
            f"{TABLE} needs a first line such as path,glasses,smile: a path column, then different attribute names"
        )
    if group is not None and group not in names:
        raise ZsemError(f"{TABLE} has no column {group!r} to group by: choose one of {', '.join(names)}")
    group = group or GROUP
    rows: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    texts = _text_columns(lines[1:], header) - {group}
    for line, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ZsemError(f"{TABLE} has {len(cells)} cells in line {line}, but {len(header)} in its first line")
        path = PurePosixPath(cells[0].strip().replace("\\", "/")).as_posix()
        if path in rows:
            raise ZsemError(f"{TABLE} names {path} a second time in line {line}: remove one of the two")
        named = list(zip(names, cells[1:], strict=True))
        rows[path] = [_number(cell, line, name) for name, cell in named if name not in {group, *texts}]
        for name, cell in named:
            if name == group and cell.strip():
                groups[path] = cell.strip()
    numbers = [name for name in names if name not in {group, *texts}]
    return Table(names=numbers, rows=rows, groups=groups, texts=sorted(texts))


def _text_columns(lines: Sequence[Sequence[str]], header: Sequence[str]) -> set[str]:
    """The columns, but for the first, whose cells are blank or no numbers, and not all blank."""
    numbers, texts = set(), set()
    for cells in lines:
        for name, cell in zip(header[1:], cells[1:], strict=False):
            if cell.strip():
                (numbers if _is_number(cell) else texts).add(name)
    return texts - numbers


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def divided_groups(splits: Mapping[str, Split], groups: Mapping[str, str]) -> list[str]:
    """Groups of which several splits have images; both by path."""
    found: dict[str, Split] = {}
    shared = {path: groups[path] for path in splits if path in groups}
    return sorted({group for path, group in shared.items() if found.setdefault(group, splits[path]) != splits[path]})


def _number(cell: str, line: int, name: str) -> float:
    text = cell.strip()
    value = (float(text) if _is_number(text) else math.inf) if text else math.nan
    if math.isinf(value):
        raise ZsemError(f"{TABLE} has {text!r} in line {line}, column {name}: write a number, or leave the cell blank")
    return value


def spread(groups: Sequence[str], number: int) -> list[int]:
    """`number` of len(groups) places, evenly spaced within every group and shared among groups by their size.

    Every group keeps at least one place while `number` allows it. The result is sorted.
    """
    if number >= len(groups):
        return list(range(len(groups)))
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    chosen: list[int] = []
    left, total = number, len(groups)
    for rank, group in enumerate(sorted(members, key=lambda name: len(members[name]))):
        places = members[group]
        waiting = len(members) - rank - 1
        share = min(max(round(left * len(places) / total), 1), max(left - waiting, 0), len(places))
        chosen += [places[i * len(places) // share] for i in range(share)]
        left, total = left - share, total - len(places)
    return sorted(chosen)


def as_split(name: str) -> Split:
    """`name` as a split. ZsemError where it is none."""
    if name not in {"train", "val", "test"}:
        raise ZsemError(f"there is no split {name!r}: choose train, val or test")
    return cast(Split, name)
