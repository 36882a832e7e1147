"""Labels from wherever they are: `attributes.csv`, class folders, and the annotation files of CelebA and CelebA-HQ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from zsem.data.images import ImageSet
from zsem.values.errors import ZsemError

ANNOTATIONS = ("CelebAMask-HQ-attribute-anno.txt", "list_attr_celeba.txt")
"""Files that are found by themselves in the folder of images or beside it."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images with all their labels as attributes.

    images: 0/1 or real attributes; NaN = no label.
    classes: those attributes that are classes, of which every image has at most one.
    """

    images: ImageSet
    classes: tuple[str, ...]


def with_labels(images: ImageSet, annotations: str | Path | None = None, *, required: bool = True) -> Labelled:
    """The same images with the labels of class folders and of an annotation file added to those of the table.

    Each class is a 0/1 attribute, but of two classes only the second: the first is its opposite.
    annotations: a file in the format of CelebA; by default one of ANNOTATIONS in the folder of images or beside it,
        where one beside it that names none of the images belongs to others and is passed over.
    required: whether images without any labels are an error.
    Raises ZsemError where two sources have an attribute of one name, or the images have no labels at all.
    """
    found = dict(images.attributes)
    of_classes = class_attributes(images)
    path = find_annotations(images.source) if annotations is None else Path(annotations)
    annotated = {}
    if path is not None:
        optional = annotations is None and path.parent != Path(images.source)
        annotated = annotation_columns(path, images.paths, optional=optional)
    for more, source in ((of_classes, "class folders"), (annotated, str(path))):
        if twice := sorted(found.keys() & more.keys()):
            raise ZsemError(f"the attribute {twice[0]} comes from {source} and from elsewhere: rename one of the two")
        found |= more
    if not found and required:
        raise ZsemError(
            f"{images.source} has no labels: put a table attributes.csv beside the images, or sort them into folders"
        )
    return Labelled(images=replace(images, attributes=found), classes=tuple(of_classes))


def class_attributes(images: ImageSet) -> dict[str, np.ndarray]:
    """A 0/1 column per class, float32 [n]; NaN for images without a class. Two classes give one column."""
    names = images.class_names[1:] if len(images.class_names) == 2 else images.class_names
    numbers = images.classes.numpy()
    return {
        name: np.where(numbers < 0, np.nan, numbers == images.class_names.index(name)).astype(np.float32)
        for name in names
        if len(images.class_names) > 1
    }


def find_annotations(source: str | Path) -> Path | None:
    """An annotation file of CelebA in the folder of images or beside it."""
    places = (Path(source), Path(source).parent)
    return next((place / name for place in places for name in ANNOTATIONS if (place / name).is_file()), None)


def annotation_columns(path: Path, paths: list[str], *, optional: bool = False) -> dict[str, np.ndarray]:
    """A 0/1 column per attribute for images, float32 [n]; NaN where the file does not name the image.

    Images are found by their names without folder and ending (`27.jpg` may be there as `images/27.png`).
    optional: no columns where the file names none of the images.
    Raises ZsemError where the file cannot be read, or names none of the images.
    """
    names, rows = read_annotations(path)
    missing = [math.nan] * len(names)
    values = np.array([rows.get(PurePosixPath(image).stem, missing) for image in paths], dtype=np.float32)
    values = values.reshape(len(paths), len(names))
    if np.isnan(values).all():
        if optional:
            return {}
        raise ZsemError(f"{path} names none of these images, e.g. {paths[0]}: give the file that belongs to them")
    return {name: values[:, column] for column, name in enumerate(names)}


def read_annotations(path: Path) -> tuple[list[str], dict[str, list[float]]]:
    """Names of attributes, and 0 or 1 for each by an image's name without its ending.

    The format of CelebA and CelebA-HQ: a line with the number of images, one with the names, then a line per image with
    its file and 1 or -1 for each. Raises ZsemError for anything else.
    """
    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ZsemError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ZsemError(f"{path} is no text, so it has no annotations") from None
    if len(lines) < 3 or len(lines[0]) != 1 or not lines[0][0].isdigit():
        raise ZsemError(f"{path} is not in CelebA's format: a number of images, names of attributes, a line per image")
    names, count = lines[1], int(lines[0][0])
    if count != len(lines) - 2 or len(set(names)) != len(names):
        raise ZsemError(f"{path} says {count} images and has {len(lines) - 2}, or a name twice: copy it again")
    rows: dict[str, list[float]] = {}
    for number, (file, *cells) in enumerate(lines[2:], start=1):
        if len(cells) != len(names) or set(cells) - {"1", "-1"}:
            raise ZsemError(f"{path}: image {number} ({file}) needs 1 or -1 for each of {len(names)} attributes")
        rows[PurePosixPath(file).stem] = [float(cell == "1") for cell in cells]
    return names, rows
