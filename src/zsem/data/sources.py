"""Where image files come from: folders, archives that are never unpacked to disk, single files, lists of paths."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from zsem.data.decoding import EXTENSIONS, UnreadableImageError
from zsem.data.labels import TABLE
from zsem.values.errors import ZsemError

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Member:
    """One file of a source: its relative posix path, and how to get its bytes (may be called in any thread)."""

    path: str
    read: Callable[[], bytes]


@runtime_checkable
class Source(Protocol):
    """Images and attribute tables with relative paths.

    paths: all of them, in any order.
    members: the same, those in `wanted` or all, in the order in which they are quickest to read.
    name: for messages.
    wrapped: one folder may wrap everything.
    streamed: `paths` costs a pass over the whole file.
    """

    name: str
    wrapped: bool
    streamed: bool

    def paths(self) -> list[str]: ...

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]: ...


def open_source(source: str | Path | Sequence[str | Path]) -> Source:
    """The source that `source` names. ZsemError where nothing of the kind is there."""
    if not isinstance(source, (str, Path)):
        return FileList([Path(path) for path in source])
    path = Path(source)
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise ZsemError(f"{path} does not exist: give a folder, an archive (tar, zip) or an image")
    if path.name.lower().endswith(TAR_ENDINGS):
        return Tar(path)
    if path.suffix.lower() == ".zip":
        return Zip(path)
    if path.suffix.lower() in EXTENSIONS:
        return FileList([path])
    raise ZsemError(f"{path} is neither a folder, nor a tar or zip archive, nor an image of a known kind")


def natural_key(path: str) -> tuple[list[str | int], str]:
    """Sorts img2 before img10."""
    parts = re.split(r"(\d+)", path)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path


def _relevant(path: str) -> bool:
    """Images and attribute tables, except hidden files and what macOS adds to archives."""
    parts = PurePosixPath(path).parts
    if any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts):
        return False
    return parts[-1:] == (TABLE,) or PurePosixPath(path).suffix.lower() in EXTENSIONS


class Folder:
    """All images below a folder; linked folders are followed once."""

    wrapped = False
    streamed = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def paths(self) -> list[str]:
        found: list[str] = []
        seen: set[str] = set()
        for folder, subfolders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            below = Path(folder).relative_to(self.root)
            found += [(below / file).as_posix() for file in files]
        return [path for path in found if _relevant(path)]

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        for path in sorted(self.paths() if wanted is None else wanted):
            yield Member(path, (self.root / path).read_bytes)


class FileList:
    """Given image files, named by their paths below the deepest folder that holds them all."""

    wrapped = False
    streamed = False

    def __init__(self, files: list[Path]) -> None:
        if not files:
            raise ZsemError("the list of images is empty")
        for file in files:
            if not file.is_file():
                raise ZsemError(f"{file} does not exist or is not a file")
        absolute = [file.absolute() for file in files]
        common = Path(os.path.commonpath([file.parent for file in absolute]))
        self.files = {file.relative_to(common).as_posix(): file for file in absolute}
        self.name = str(files[0]) if len(files) == 1 else str(common)

    def paths(self) -> list[str]:
        return list(self.files)

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        for path, file in self.files.items():
            if wanted is None or path in wanted:
                yield Member(path, file.read_bytes)


def _inside(path: str) -> str:
    """The relative posix path of an archive's member; a path that leads out of the archive keeps its `..`."""
    return PurePosixPath(path.replace("\\", "/").lstrip("/")).as_posix()


def _checked(path: str, data: bytes) -> Member:
    if ".." in PurePosixPath(path).parts:
        return Member(path, _failure("its path leads out of the archive"))
    return Member(path, lambda: data)


def _failure(reason: str) -> Callable[[], bytes]:
    def read() -> bytes:
        raise UnreadableImageError(reason)

    return read


class Tar:
    """A tar archive, compressed or not, read as a stream from front to back."""

    wrapped = True
    streamed = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def paths(self) -> list[str]:
        return [member.path for member in self._stream(frozenset())]

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        return (member for member in self._stream(wanted) if wanted is None or member.path in wanted)

    def _stream(self, wanted: frozenset[str] | None) -> Iterator[Member]:
        """All images and tables; those that are not wanted come without their bytes."""
        count = 0
        try:
            with tarfile.open(self.path, "r|*") as archive:
                for info in archive:
                    path = _inside(info.name)
                    if info.isdir() or not _relevant(path):
                        continue
                    file = archive.extractfile(info) if info.isfile() else None
                    if file is None:
                        yield Member(path, _failure("a link, which is not followed"))
                    else:
                        yield _checked(path, file.read() if wanted is None or path in wanted else b"")
                    count += 1
                stream = archive.fileobj
                # tarfile takes a missing end for the end; a whole archive closes with an empty block
                if stream is None or stream.tell() != archive.offset + tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("it ends too early")
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise ZsemError(
                f"{self.path} is damaged or not a tar archive ({error}; {count} images came before): fetch it again"
            ) from error


class Zip:
    """A zip archive."""

    wrapped = True
    streamed = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self.file = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ZsemError(f"{path} is damaged or not a zip archive ({error}): fetch it again") from error
        infos = [(_inside(info.filename), info) for info in self.file.infolist() if not info.is_dir()]
        self.infos = {path: info for path, info in infos if _relevant(path)}

    def paths(self) -> list[str]:
        return list(self.infos)

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        with self.file:
            for path, info in self.infos.items():
                if wanted is None or path in wanted:
                    try:
                        data = self.file.read(info)
                    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                        yield Member(path, _failure(f"damaged in the archive ({error})"))
                    else:
                        yield _checked(path, data)
