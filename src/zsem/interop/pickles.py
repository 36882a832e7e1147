"""Files of torch.save, read without running what is in them.

`torch.load` is not used: with a pickle module of one's own it still runs TorchScript, unpacks tar archives, compares
and writes source files, and obeys environment variables. The two formats are simple and have not changed for years.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsem.interop.allowed import Refused, printable
from zsem.interop.unpickler import Unpickler
from zsem.values.errors import ZsemError

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C
"""The first of the pickles in a file of the legacy format."""
PROTOCOL = 1001
ALIGNED = 16
"""Bytes of the largest number, at whose multiples storages must lie; torch.save puts them at multiples of 64."""
HEAD = 512
MEND = "save the state_dict alone where the file was made"
DOWNLOAD = "download it again"

DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RuntimeError,
)
"""What the standard library and torch raise at nonsense, in a file that is meant to be of their format."""


@dataclass(frozen=True)
class Pickle:
    """What a file of torch.save holds.

    content: as it was saved, on the CPU. What torch and numpy do not define are instances or subclasses of
        `zsem.interop.allowed.Stub`. Tensors of the zip format read the file when they are used, and writing to them
        does not change it; clone what must outlive a change of the file.
    stubs: names of all that became stubs, sorted.
    """

    content: Any
    stubs: tuple[str, ...]


def read_pickle(path: Path) -> Pickle:
    """Read a file of torch.save, of the zip format (torch 1.6 and later) or the legacy one, running nothing in it.

    Only tensors, containers, numbers, text and plain numpy values are made. Everything else becomes an inert stub.

    ZsemError: no such file, not a file of torch.save, truncated or damaged, or asking for what is not safe.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except IsADirectoryError:
        raise ZsemError(f"{path} is a folder: name the file") from None
    except FileNotFoundError:
        raise ZsemError(f"{path} is missing: check the name") from None
    except OSError as error:
        raise ZsemError(f"{path} cannot be read ({error.strerror or error}): check the file") from error


def _read(path: Path, file: BufferedReader) -> Pickle:
    head = file.read(HEAD)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        if head.startswith(ZIP):
            return _read_zip(file, size)
        if struct.pack("<QH", MAGIC % 2**64, MAGIC >> 64) in head[:32]:
            return _read_legacy(file, size)
    except Refused as error:
        raise ZsemError(f"{path} {error}, which zsem does not read: {MEND}") from None
    except DAMAGED as error:
        what = "it ends too early" if isinstance(error, EOFError) else printable(str(error)) or type(error).__name__
        raise ZsemError(f"{path} is truncated or damaged ({what}): {DOWNLOAD}") from error
    raise ZsemError(f"{path} {_strange(head)}")


def _strange(head: bytes) -> str:
    """What a file that torch.save did not write probably is."""
    if not head:
        return f"is empty: {DOWNLOAD}"
    if head[257:262] == b"ustar":
        return f"is a tar archive, as torch wrote before 2017; these are not read: {MEND}, with a newer torch"
    if head.lstrip()[:1] == b"<":
        return f"is a web page, perhaps one that asks before a download: open its address in a browser, and {DOWNLOAD}"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: run `git lfs pull` where it came from"
    if head.startswith(b"\x80"):
        return "is a pickle, but not of torch.save: load it where it was made and save its tensors with torch.save"
    return "is not a file of torch.save: name a checkpoint, often called .pt, .pth or .ckpt"


class _ZipStorages:
    """The storages of a zip archive, mapped into memory, so that only what is used is read."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        with zipfile.ZipFile(file) as archive:
            self._records = {record.filename: record for record in archive.infolist()}
        if any(name.rpartition("/")[2] == "constants.pkl" for name in self._records):
            raise Refused("is a TorchScript archive, a program")
        roots = [name.partition("/")[0] for name in self._records if name.partition("/")[2] == "data.pkl"]
        if len(roots) != 1:
            raise zipfile.BadZipFile("a zip archive without data.pkl")
        self._root = roots[0]
        self._size = size
        # Copy on write, as tensors can be written to
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._tensors: dict[str, Tensor] = {}

    def record(self, name: str) -> tuple[int, int]:
        """Where a record begins, and its bytes."""
        record = self._records[f"{self._root}/{name}"]
        if record.compress_type != zipfile.ZIP_STORED:
            raise Refused("is a compressed archive")
        start = record.header_offset
        header = self._map[start : start + 30]
        if len(header) < 30 or not header.startswith(ZIP):
            raise zipfile.BadZipFile(f"no {printable(name)} where the list of contents has it")
        start += 30 + sum(struct.unpack("<HH", header[26:]))
        if start + record.file_size > self._size:
            raise EOFError
        return start, record.file_size

    def read(self, name: str, missing: bytes = b"") -> bytes:
        """A record's bytes, checked by its sum (which torch.save can be told to leave out), or `missing`."""
        if missing and f"{self._root}/{name}" not in self._records:
            return missing
        start, length = self.record(name)
        data = self._map[start : start + length]
        if (checksum := self._records[f"{self._root}/{name}"].CRC) and zlib.crc32(data) != checksum:
            raise zipfile.BadZipFile(f"the checksum of {name} differs")
        return data

    def __call__(self, dtype: torch.dtype, key: str, items: int) -> Tensor:
        start, held = self.record(f"data/{key}")
        length = items * dtype.itemsize
        if length > held:
            raise pickle.UnpicklingError(f"a storage of {items} numbers in a record of {held} bytes")
        if key not in self._tensors:
            data = torch.frombuffer(self._map, dtype=torch.uint8, count=held, offset=start) if held else torch.empty(0)
            self._tensors[key] = data if start % ALIGNED == 0 else data.clone()
        return torch.empty(0, dtype=dtype).set_(self._tensors[key].untyped_storage())


def _read_zip(file: BufferedReader, size: int) -> Pickle:
    storages = _ZipStorages(file, size)
    _check_order(storages.read("byteorder", b"little").decode())
    unpickler = Unpickler(BytesIO(storages.read("data.pkl")), storages)
    return _pickle(unpickler.load(), unpickler)


class _LegacyStorages:
    """The storages of the legacy format: they follow the pickle that uses them, so they are filled afterwards."""

    def __init__(self, size: int) -> None:
        self._room = size
        self._tensors: dict[str, Tensor] = {}

    def __call__(self, dtype: torch.dtype, key: str, items: int) -> Tensor:
        if key not in self._tensors:
            self._room -= items * dtype.itemsize
            if self._room < 0:
                raise EOFError
            self._tensors[key] = torch.empty(items, dtype=dtype)
        tensor = self._tensors[key]
        if tensor.dtype != dtype or len(tensor) != items:
            raise pickle.UnpicklingError("a storage of two kinds")
        return tensor

    def fill(self, file: BufferedReader, keys: list[str]) -> None:
        """Read them one after the other, each with its number of items in front."""
        if sorted(keys) != sorted(self._tensors):
            raise pickle.UnpicklingError("other storages than the tensors have")
        for key in keys:
            tensor = self._tensors[key]
            if struct.unpack("<q", file.read(8)) != (len(tensor),):
                raise pickle.UnpicklingError("a storage of another size than its tensors")
            # As bytes, for numpy knows fewer types than torch
            room = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().data
            if file.readinto(room) != room.nbytes:
                raise EOFError


def _read_legacy(file: BufferedReader, size: int) -> Pickle:
    storages = _LegacyStorages(size)
    unpickler = Unpickler(file, storages)
    if unpickler.load() != MAGIC or unpickler.load() != PROTOCOL:
        raise pickle.UnpicklingError("another version of the format")
    unpickler.load()  # facts of the machine that saved; its byte order is not that of the file, which is always little
    _check_order("little")
    content = unpickler.load()
    storages.fill(file, unpickler.load())
    return _pickle(content, unpickler)


def _check_order(order: str) -> None:
    if order != sys.byteorder:
        raise Refused(f"has numbers in {printable(order)}-endian byte order")


def _pickle(content: Any, unpickler: Unpickler) -> Pickle:
    return Pickle(content, tuple(sorted({stub.dotted for stub in unpickler.stubs.values()})))
