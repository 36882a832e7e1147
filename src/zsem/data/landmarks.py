"""Five landmarks per face as a table: path, then x and y of eyes, nose and corners of the mouth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from zsem.data.align import ffhq_quad
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
HEADER = ("path", *(f"{point}_{axis}" for point in POINTS for axis in "xy"))

Points = Float[np.ndarray, "5 2"]


def read_landmarks(file: str | Path) -> dict[str, list[Points]]:
    """The faces of every image by its relative path; an image with several faces has several rows.

    The columns are those of HEADER; a first line that begins with `path` is skipped. Points are x, y in pixels of the
    upright image, left is the picture's left.

    ZsemError: the file cannot be read, a row of another length, a cell that is no number, points that make no face.
    """
    file = Path(file)
    try:
        lines = list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))
    except OSError as error:
        raise ZsemError(f"{file} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ZsemError(f"{file} cannot be read as a comma-separated table in UTF-8: {error}") from None
    faces: dict[str, list[Points]] = {}
    for number, cells in enumerate(lines, start=1):
        if not any(cell.strip() for cell in cells) or (number == 1 and cells[0].strip().lower() == HEADER[0]):
            continue
        path = PurePosixPath(cells[0].strip().replace("\\", "/")).as_posix()
        faces.setdefault(path, []).append(_points(cells, f"{file}, line {number}"))
    if not faces:
        raise ZsemError(f"{file} has no landmarks: write a row of {','.join(HEADER)} for every face")
    return faces


def _points(cells: list[str], where: str) -> Points:
    if len(cells) != len(HEADER):
        raise ZsemError(f"{where} has {len(cells)} cells, not {len(HEADER)}: {','.join(HEADER)}")
    try:
        points = np.array([float(cell) for cell in cells[1:]]).reshape(-1, 2)
    except ValueError as error:
        raise ZsemError(f"{where} has a cell that is no number ({error}): write x and y of every point") from None
    try:
        ffhq_quad(points)
    except ZsemError as error:
        raise ZsemError(f"{where}: {error}") from None
    return points


def write_landmarks(file: Path, faces: Iterable[tuple[str, Points]]) -> None:
    """Write rows of image path and points such that `read_landmarks` gives the very same numbers."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    table.writerows([path, *map(float, points.ravel())] for path, points in faces)
    write_whole(file, text.getvalue().encode())
