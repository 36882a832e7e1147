"""Decoded images that do not fit into memory: in files that are mapped, kept in a cache folder for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np
import PIL
import psutil
import torch
from jaxtyping import Shaped
from torch import Tensor

from zsem.data.reading import Common, Contents, File, Original, Reading
from zsem.data.shaping import Depth, depth_of
from zsem.data.sources import FileList, Source
from zsem.values.errors import ZsemError

FORMAT = 1
"""Number of this way to keep images; others are read anew."""
MEMORY_SHARE = 0.25
"""Share of the memory that is free now which pixels may take."""
PIXELS, INDEX, ABOUT = "pixels.bin", "index.json", "about.json"


def folder() -> Path:
    """Where decoded images are kept: the environment variable ZSEM_CACHE, or zsem in the user's cache folder."""
    if chosen := os.environ.get("ZSEM_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zsem"


def memory_for_pixels() -> int:
    """Bytes of pixels that are held in memory; more are mapped from a file."""
    return int(MEMORY_SHARE * psutil.virtual_memory().available)


def _no_room(error: OSError) -> ZsemError:
    return ZsemError(
        f"the decoded images, which are too many for the memory, could not be written to {folder()} "
        f"({error.strerror or error}): set ZSEM_CACHE to a folder with room, or give a limit"
    )


class Store:
    """Images as they come from the decoder: in memory up to `memory` bytes, from then on in a file."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._held: list[np.ndarray] = []
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self.kinds: list[tuple[tuple[int, ...], Depth]] = []

    @property
    def spilled(self) -> bool:
        """Whether there was more than the memory may take."""
        return self._file is not None

    def append(self, pixels: np.ndarray) -> None:
        """Keep one image. ZsemError: no room on the disk."""
        self.kinds.append((pixels.shape, depth_of(pixels)))
        self._bytes += pixels.nbytes
        self._held.append(pixels)
        if self._file is None and self._bytes <= self._memory:
            return
        try:
            self._file = self._file or _unnamed_file()
            for waiting in self._held:
                self._file.write(waiting.data)
        except OSError as error:
            raise _no_room(error) from error
        self._held = []

    def rows(self, order: Iterable[int]) -> Iterator[np.ndarray]:
        """The images at `order`."""
        if self._file is None:
            yield from (self._held[row] for row in order)
            return
        sizes = [int(np.prod(shape)) * np.dtype(depth).itemsize for shape, depth in self.kinds]
        ends = np.cumsum(sizes)
        for row in order:
            shape, depth = self.kinds[row]
            self._file.seek(int(ends[row]) - sizes[row])
            yield np.frombuffer(self._file.read(sizes[row]), depth).reshape(shape)

    def close(self) -> None:
        """Give the disk back."""
        if self._file is not None:
            self._file.close()


def stacked(rows: Iterable[np.ndarray], number: int, common: Common) -> Shaped[Tensor, "n c h w"]:
    """`number` images as one tensor in memory."""
    out = np.empty((number, *common.shape), dtype=common.depth)
    for place, image in zip(out, rows, strict=True):
        place[:] = common.convert(image)
    return torch.from_numpy(out)


def gathered(pixels: Shaped[Tensor, "n c h w"], indices: Sequence[int]) -> Shaped[Tensor, "m c h w"]:
    """Some of the images of a mapped tensor: in memory where they fit, else mapped too."""
    if len(indices) * pixels[0].nbytes <= memory_for_pixels():
        return pixels[torch.as_tensor(indices, dtype=torch.long)]
    if list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return pixels[indices[0] : indices[0] + len(indices)]
    array = pixels.numpy()
    common = Common(shape=array.shape[1:], depth=depth_of(array))
    return unnamed((array[row] for row in indices), len(indices), common)


def unnamed(rows: Iterable[np.ndarray], number: int, common: Common) -> Shaped[Tensor, "n c h w"]:
    """`number` images in a mapped file that vanishes with the tensor."""
    try:
        with _unnamed_file() as file:
            _write(file, rows, common)
            return _mapped(file, number, common)
    except OSError as error:
        raise _no_room(error) from error


def find(source: Source, settings: str) -> Reading | None:
    """What was kept of the same files read with the same settings; other states of them are removed."""
    home = _home()
    found = list(home.glob(f"{_identity(source, settings)}-*")) if source.files() else []
    if not found:
        return None
    name = _name(source, settings)
    for entry in found:
        if entry.name != name:
            shutil.rmtree(entry, ignore_errors=True)
    return _open(home / name)


def keep(source: Source, settings: str, rows: Iterable[np.ndarray], common: Common, about: Contents) -> Reading:
    """Write images to the cache, whole or not at all; the reading with these pixels, mapped from there.

    ZsemError: no room on the disk.
    """
    number = sum(not file.reason for file in about.files)
    if not source.files():
        return Reading(contents=about, pixels=unnamed(rows, number, common), mapped=True)
    home = _home()
    partial = None
    try:
        home.mkdir(parents=True, exist_ok=True)
        _clean(home)
        partial = Path(tempfile.mkdtemp(prefix=f"{_mark()}-", dir=home))
        with (partial / PIXELS).open("wb") as file:
            _write(file, rows, common)
            os.fsync(file.fileno())
        index = {
            "shape": [number, *common.shape],
            "depth": common.depth,
            "names": about.names,
            "tables": {path: data.decode("latin-1") for path, data in about.tables.items()},
            "files": [asdict(file) for file in about.files],
            "notes": about.notes,
        }
        (partial / INDEX).write_text(json.dumps(index), "utf-8")
        (partial / ABOUT).write_text(json.dumps({"source": str(Path(source.name).absolute())}), "utf-8")
        target = home / _name(source, settings)
        if target.exists():  # another process was quicker
            shutil.rmtree(partial)
        else:
            partial.rename(target)
    except OSError as error:
        raise _no_room(error) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    kept = _open(target)
    assert kept is not None
    return kept


def _open(entry: Path) -> Reading | None:
    """An entry of the cache; one that is damaged is removed."""
    try:
        index = json.loads((entry / INDEX).read_text("utf-8"))
        number, *shape = index["shape"]
        common = Common(shape=tuple(shape), depth=index["depth"])
        with (entry / PIXELS).open("rb") as file:
            pixels = _mapped(file, number, common)
        files = [
            File(**{**about, "original": Original(**about["original"]) if about["original"] else None})
            for about in index["files"]
        ]
        tables = {path: text.encode("latin-1") for path, text in index["tables"].items()}
        contents = Contents(names=index["names"], tables=tables, files=files, notes=index["notes"])
        return Reading(contents=contents, pixels=pixels, mapped=True)
    except (OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _mapped(file: IO[bytes], number: int, common: Common) -> Shaped[Tensor, "n c h w"]:
    """A file of pixels as a tensor: read when it is looked at, and never written to."""
    return torch.from_numpy(np.memmap(file, common.depth, "c", shape=(number, *common.shape)))


def _write(file: IO[bytes], rows: Iterable[np.ndarray], common: Common) -> None:
    """Written, not mapped: a full disk is then an error, where a mapping would end the process."""
    for image in rows:
        file.write(np.ascontiguousarray(common.convert(image)).data)
    file.flush()


def _home() -> Path:
    return folder() / "images"


def _unnamed_file() -> IO[bytes]:
    _home().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=_home())


def _mark() -> str:
    return f".partial-{socket.gethostname()}-{os.getpid()}"


def _identity(source: Source, settings: str) -> str:
    """Sixteen digits for what was asked for, whatever state the files are in."""
    about = [type(source).__name__, str(Path(source.name).absolute()), settings, PIL.__version__, str(FORMAT)]
    if isinstance(source, FileList):
        about += [str(file) for file in source.files()]
    return hashlib.sha256("\n".join(about).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _name(source: Source, settings: str) -> str:
    """An entry's name: what was asked for, and the names, sizes and times of change of the files."""
    digest = hashlib.sha256()
    for file in sorted(source.files()):
        try:
            state = file.stat()
            digest.update(f"{file}\n{state.st_size}\n{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        except OSError:
            digest.update(f"{file}\n-\n".encode("utf-8", "surrogateescape"))  # a link to nowhere: named when it is read
    return f"{_identity(source, settings)}-{digest.hexdigest()[:32]}"


def _clean(home: Path) -> None:
    """Remove what nobody can use: parts that ended processes left, and images whose source is gone."""
    for entry in home.iterdir():
        if entry.name.startswith(f".partial-{socket.gethostname()}-"):
            process = entry.name.removeprefix(f".partial-{socket.gethostname()}-").split("-")[0]
            gone = process.isdigit() and not psutil.pid_exists(int(process))
        else:
            try:
                about = json.loads((entry / ABOUT).read_text("utf-8"))
                gone = not Path(about["source"]).exists()
            except (OSError, ValueError, KeyError):
                gone = False  # another process may be about to remove or to finish it
        if gone:
            shutil.rmtree(entry, ignore_errors=True)
