"""Where image files come from: folders, archives that are never unpacked to disk, single files, lists of paths."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from torch.utils.data import Dataset

from zsem.data import stacks
from zsem.data.datasets import Items
from zsem.data.decoding import EXTENSIONS
from zsem.data.labels import TABLE, Table
from zsem.data.limits import UnreadableImageError
from zsem.data.members import Member, Source, natural_key
from zsem.data.tables import PARQUET, ParquetFiles
from zsem.values.errors import ZsemError

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def open_source(source: str | Path | Sequence[str | Path] | Dataset, *, group: str | None = None) -> Source:
    """The source that `source` names. ZsemError where nothing of the kind is there.

    group: the column of a Parquet table that says what belongs together.
    """
    if isinstance(source, Dataset):
        return Items(source)
    if not isinstance(source, (str, Path)):
        return FileList([Path(path) for path in source])
    path = Path(source)
    if not path.exists():
        raise ZsemError(f"{path} does not exist: give a folder, an archive (tar, zip) or an image")
    return _open_folder(path, group) if path.is_dir() else _open_file(path, group)


def _open_file(path: Path, group: str | None) -> Source:
    name, suffix = path.name.lower(), path.suffix.lower()
    opened: Source | None = None
    if name.endswith(TAR_ENDINGS):
        opened = Tar(path)
    elif suffix == ".zip":
        opened = Zip(path)
    elif suffix == PARQUET:
        opened = ParquetFiles([path], str(path), group)
    elif stacks.IDX.fullmatch(name):
        opened = stacks.open_idx([path], str(path))
    elif suffix == ".npz" or (suffix == ".npy" and stacks.axes_of(path) == stacks.SEVERAL):
        opened = stacks.open_numpy(path)
    elif suffix in EXTENSIONS:
        opened = FileList([path])
    if opened is None:
        raise ZsemError(f"{path} is neither a folder, nor a tar or zip archive, nor an image or table of a known kind")
    return opened


def _open_folder(path: Path, group: str | None) -> Source:
    """Images, or where there are none, Parquet tables or idx files."""
    folder = Folder(path)
    if any(not found.endswith(TABLE) for found in folder.paths()):
        return folder
    others = [path / other for other in sorted(folder.others, key=natural_key)]
    if tables := [other for other in others if other.suffix.lower() == PARQUET]:
        return ParquetFiles(tables, str(path), group)
    if idx := [other for other in others if stacks.IDX.fullmatch(other.name.lower())]:
        return stacks.open_idx(idx, str(path))
    return folder


def _hidden(path: str) -> bool:
    """Hidden files, and what macOS adds to archives."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def _relevant(path: str) -> bool:
    """Images and attribute tables, except hidden ones."""
    pure = PurePosixPath(path)
    return not _hidden(path) and (pure.name == TABLE or pure.suffix.lower() in EXTENSIONS)


class Folder:
    """All images below a folder; linked folders are followed once."""

    wrapped = False
    streamed = False
    table: Table | None = None

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)
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
        shown = [path for path in found if not _hidden(path)]
        self.found = [path for path in shown if _relevant(path)]
        self.others = [path for path in shown if not _relevant(path)]

    def paths(self) -> list[str]:
        return self.found

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        for path in sorted(self.found if wanted is None else wanted, key=natural_key):
            yield Member(path, (self.root / path).read_bytes)

    def files(self) -> list[Path]:
        return [self.root / path for path in self.found]


class FileList:
    """Given image files, named by their paths below the deepest folder that holds them all."""

    wrapped = False
    streamed = False
    table: Table | None = None

    def __init__(self, files: list[Path]) -> None:
        if not files:
            raise ZsemError("the list of images is empty")
        for file in files:
            if not file.is_file():
                raise ZsemError(f"{file} does not exist or is not a file")
        absolute = [file.absolute() for file in files]
        common = Path(os.path.commonpath([file.parent for file in absolute]))
        self.files_by_path = {file.relative_to(common).as_posix(): file for file in absolute}
        self.name = str(files[0]) if len(files) == 1 else str(common)

    def paths(self) -> list[str]:
        return list(self.files_by_path)

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        for path, file in self.files_by_path.items():
            if wanted is None or path in wanted:
                yield Member(path, file.read_bytes)

    def files(self) -> list[Path]:
        return list(self.files_by_path.values())


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
    table: Table | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def paths(self) -> list[str]:
        return [member.path for member in self._stream(frozenset())]

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        return (member for member in self._stream(wanted) if wanted is None or member.path in wanted)

    def files(self) -> list[Path]:
        return [self.path]

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
    table: Table | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        try:
            with zipfile.ZipFile(path) as file:
                infos = [(_inside(info.filename), info) for info in file.infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise ZsemError(f"{path} is damaged or not a zip archive ({error}): fetch it again") from error
        self.infos = {inside: info for inside, info in infos if _relevant(inside)}

    def paths(self) -> list[str]:
        return list(self.infos)

    def files(self) -> list[Path]:
        return [self.path]

    def members(self, wanted: frozenset[str] | None = None) -> Iterator[Member]:
        with zipfile.ZipFile(self.path) as file:
            for path, info in self.infos.items():
                if wanted is None or path in wanted:
                    try:
                        data = file.read(info)
                    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                        yield Member(path, _failure(f"damaged in the archive ({error})"))
                    else:
                        yield _checked(path, data)
