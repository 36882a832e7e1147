"""`zsem align`: FFHQ-aligned faces from photos."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report, progress
from zsem.cli.images import file_stems
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from PIL import Image

    from zsem.data.landmarks import Points
    from zsem.data.members import Member, Source

MODELS = "ZSEM_FACE_MODELS"
"""Environment variable for the folder of the face networks."""
TABLE = "landmarks.csv"
SIZES = (16, 2048)

Find = Callable[[str, "Image.Image"], "list[Points]"]
"""From an image's path and pixels to its faces, five points each."""


@dataclass(kw_only=True)
class Faces:
    """What became of the images.

    found: path and points of every face that was cut out.
    without: paths of images without a face.
    skipped: path and reason of every image or face that could not be used.
    """

    found: list[tuple[str, Points]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Align(Command):
    """Cut FFHQ-aligned square faces out of photos, as official face checkpoints expect them.

    Finds faces by face-api's small networks (--models), or takes five points per face from a table (--landmarks).
    Writes one PNG file for the largest face of every image. What the networks found goes to landmarks.csv beside them,
    of which a copy may be mended and given back as --landmarks.
    """

    images: Annotated[Positional[str], arg(metavar="IMAGES")]
    """folder, archive or file of photos of any size"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for the faces"""
    models: str | None = None
    """folder `package/model` of the npm package @vladmandic/face-api 1.7.15; where not given, the environment variable
    ZSEM_FACE_MODELS"""
    landmarks: str | None = None
    """table of path, then x,y in pixels of left eye, right eye, nose, left and right corner of the mouth, left as seen
    in the upright picture; no network is used then"""
    size: int = 256
    """side of the faces, pixels"""
    all_faces: FlagCreatePairsOff[bool] = False
    """all faces of an image, not the largest alone: name-1.png is the largest, name-2.png the next"""
    limit: int | None = None
    """only so many images, evenly spaced"""

    def run(self) -> Report:
        from zsem.data.labels import spread
        from zsem.data.landmarks import write_landmarks
        from zsem.data.sources import open_source

        self._check()
        source = open_source(self.images)
        paths = image_paths(source)
        find = self._finder(set(paths.values()))
        members = list(paths)
        if self.limit is not None:
            members = [members[place] for place in spread([""] * len(members), self.limit)]
        faces = self._cut(source, members, paths, find)
        # Every image is named, however many they are: none is dropped in silence
        missing = "no face" if self.landmarks is None else "no landmarks"
        notes = [f"{missing}: {path}" for path in faces.without]
        notes += [f"left out: {path} ({reason})" for path, reason in faces.skipped]
        if not faces.found:
            raise ZsemError(f"nothing to cut out of {source.name}: {first_of(notes)}")
        if self.landmarks is None:  # a table that was given is not replaced by a part of itself
            write_landmarks(Path(self.out) / TABLE, faces.found)
        figures = {
            "n": len(members),
            "faces": len(faces.found),
            "without_face": faces.without,
            "skipped": [{"path": path, "reason": reason} for path, reason in faces.skipped],
            "out": self.out,
        }
        notes.append(f"faces: {len(faces.found)}, from {len(members)} images, in {self.out}")
        return Report(figures=figures, notes=notes)

    def _check(self) -> None:
        if not SIZES[0] <= self.size <= SIZES[1]:
            raise ZsemError(f"--size must be between {SIZES[0]} and {SIZES[1]}, not {self.size}")
        if self.limit is not None and self.limit < 1:
            raise ZsemError(f"--limit must be at least 1, not {self.limit}")
        if self.models is not None and self.landmarks is not None:
            raise ZsemError("faces are found by --models or given by --landmarks: leave one of the two out")
        out, source = Path(self.out).resolve(), Path(self.images).resolve()
        if out in {source, source.parent if source.is_file() else source}:
            raise ZsemError(f"--out {self.out} holds the photos: choose another folder, so that none is overwritten")

    def _finder(self, paths: set[str]) -> Find:
        if self.landmarks is not None:
            return by_table(self.landmarks, paths)
        from zsem.nets.faces import MEND

        folder = self.models or os.environ.get(MODELS)
        if not folder:
            raise ZsemError(
                f"faces are found by networks that zsem does not bring along: {MEND} or set {MODELS}, or give the "
                "points of the faces yourself with `--landmarks FILE`"
            )
        return by_networks(folder)

    def _cut(self, source: Source, members: list[str], paths: dict[str, str], find: Find) -> Faces:
        """Find, align and write the faces of `members`; paths: as `image_paths` gives them."""
        # Names among all images, so that --limit changes none
        stems = dict(zip(paths, file_stems(list(paths.values()), len(paths)), strict=True))
        faces = Faces()
        with progress("aligning") as done:
            for count, member in enumerate(source.members(frozenset(members)), start=1):
                self._cut_one(member, paths[member.path], stems[member.path], find, faces)
                done(count, len(members))
        return faces

    def _cut_one(self, member: Member, path: str, stem: str, find: Find, faces: Faces) -> None:
        from zsem.data.limits import UnreadableImageError
        from zsem.data.pixels import save_png
        from zsem.data.reading import as_picture

        try:
            image = as_picture(member.read())
        except (UnreadableImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            faces.skipped.append((path, reason or str(error)))
            return
        found = find(path, image)
        if not found:
            faces.without.append(path)
        for rank, (points, crop) in enumerate(self._crops(path, image, found, faces.skipped), start=1):
            save_png(crop, Path(self.out) / f"{stem}{f'-{rank}' if self.all_faces else ''}.png")
            faces.found.append((path, points))

    def _crops(
        self, path: str, image: Image.Image, found: list[Points], skipped: list[tuple[str, str]]
    ) -> list[tuple[Points, Image.Image]]:
        """The faces asked for, largest first; those that cannot be used go to `skipped`."""
        from zsem.data.align import align, ffhq_quad, side

        quads = []
        for points in found:
            try:
                quads.append((points, ffhq_quad(points)))
            except ZsemError as error:
                skipped.append((path, str(error)))
        quads.sort(key=lambda face: -side(face[1]))
        crops = []
        for points, quad in quads:
            if crops and not self.all_faces:
                break
            try:
                crops.append((points, align(image, quad, self.size)))
            except ZsemError as error:
                skipped.append((path, str(error)))
        return crops


def image_paths(source: Source) -> dict[str, str]:
    """The images of `source` in natural order: the path of each there, and without a folder that wraps everything."""
    from zsem.data.decoding import EXTENSIONS
    from zsem.data.labels import wrapping_folder
    from zsem.data.members import natural_key

    names = source.paths()
    wrap = wrapping_folder(names) if source.wrapped else ""
    images = {name for name in names if PurePosixPath(name).suffix.lower() in EXTENSIONS}
    if not images:
        raise ZsemError(f"{source.name} holds no images")
    return {name: name.removeprefix(wrap) for name in sorted(images, key=natural_key)}


def by_networks(folder: str) -> Find:
    """Faces that face-api's networks find; the weights are in `folder`."""
    from zsem.data.align import five_points
    from zsem.data.pixels import from_pil
    from zsem.nets.faces import FaceFinder

    finder = FaceFinder.load(folder)

    def find(_: str, image: Image.Image) -> list[Points]:
        return [five_points(face.landmarks.double().numpy()) for face in finder.find(from_pil(image))]

    return find


def by_table(file: str, paths: set[str]) -> Find:
    """Faces that a table names; rows about images other than `paths` are mentioned on stderr."""
    from zsem.data.landmarks import read_landmarks

    table = read_landmarks(file)
    if unknown := sorted(set(table) - paths):
        print(f"zsem: note: {file} has rows about images that are not there: {first_of(unknown)}", file=sys.stderr)
    return lambda path, _: table.get(path, [])


def first_of(things: Sequence[str]) -> str:
    """The first, and how many more there are."""
    return things[0] + f", and {len(things) - 1} more" * (len(things) > 1)
