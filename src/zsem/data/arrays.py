"""Arrays in files of numpy and idx, read without unpickling and without believing what their headers claim."""

from __future__ import annotations

import ast
import gzip
import io
import math
import struct
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from zsem.data.limits import RATIO, UnreadableImageError

NPY, ZIP, GZIP = b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b"
HEADER = 10_000
"""Bytes of a npy header, as numpy limits them."""
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_npy(data: bytes) -> np.ndarray:
    """The array of a npy file, not copied. UnreadableImageError, ValueError: damaged, or it holds Python objects."""
    shape, order, dtype, start = _npy_header(data[: HEADER + 12], len(data))
    return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape, order=order)


def map_npy(path: Path) -> np.ndarray:
    """The array of a npy file, read where it is looked at. UnreadableImageError, ValueError, OSError: as `read_npy`."""
    with path.open("rb") as file:
        shape, order, dtype, start = _npy_header(file.read(HEADER + 12), path.stat().st_size)
        if 0 in shape:
            raise UnreadableImageError(f"an array {list(shape)} with nothing in it")
        return np.memmap(file, dtype, "r", start, shape, order)


def _npy_header(data: bytes, size: int) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype, int]:
    """Shape, order, type and place of the values of a npy file of `size` bytes that begins with `data`.

    Numpy's own reader would allocate what the header claims, and tries to mend headers that are damaged.
    """
    lengths = {1: "<H", 2: "<I", 3: "<I"}
    if len(data) < 12 or not data.startswith(NPY) or data[6] not in lengths:
        raise UnreadableImageError("damaged (its header cannot be read)")
    (length,) = struct.unpack_from(lengths[data[6]], data, 8)
    start = 8 + struct.calcsize(lengths[data[6]]) + length
    if length > HEADER:
        raise UnreadableImageError(f"damaged (its header claims {length} bytes)")
    header = ast.literal_eval(data[start - length : start].decode("utf-8" if data[6] == 3 else "latin-1").strip())
    shape, order, dtype = tuple(header["shape"]), "F" if header["fortran_order"] else "C", np.dtype(header["descr"])
    if dtype.kind not in "buif":
        raise UnreadableImageError(f"an array of {dtype}, not of numbers")
    whole = all(type(axis) is int and axis >= 0 for axis in shape)
    if not whole or math.prod(shape) * dtype.itemsize != size - start:
        raise UnreadableImageError(f"damaged (it claims {list(shape)} values of {dtype} and has {size - start} bytes)")
    return shape, order, dtype, start


def read_npz(file: Path | io.BytesIO, wanted: frozenset[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a npz file by name, those in `wanted` or all.

    UnreadableImageError: damaged, or an array of Python objects.
    """
    size = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if ".npy" in info.filename}
        chosen = {name: info for name, info in infos.items() if wanted is None or name in wanted}
        claimed = sum(info.file_size for info in chosen.values())
        if claimed > RATIO * size:
            raise UnreadableImageError(f"damaged (it claims {claimed} bytes of arrays and has {size})")
        return {name: read_npy(archive.read(info)) for name, info in chosen.items()}


def read_only_member(data: bytes) -> np.ndarray:
    """The array of a npz file that holds one. UnreadableImageError: it holds none or several."""
    found = read_npz(io.BytesIO(data))
    if len(found) != 1:
        raise UnreadableImageError(f"a npz file of {len(found)} arrays: give it by itself, not in a folder")
    return next(iter(found.values()))


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file (that of MNIST), which may be compressed by gzip.

    Format: two zero bytes, the type, the number of axes, their lengths (big-endian), then the values.
    UnreadableImageError, ValueError, OSError: damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as raw, gzip.open(raw) if raw.peek(2)[:2] == GZIP else raw as file:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES or start[3] == 0:
            raise UnreadableImageError("not an idx file")
        shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
        dtype = np.dtype(IDX_TYPES[start[2]])
        claimed = math.prod(shape) * dtype.itemsize
        if claimed > (size if file is raw else RATIO * size):
            raise UnreadableImageError(f"damaged (it claims {list(shape)} values and has {size} bytes)")
        values = file.read(claimed + 1)
        if len(values) != claimed:
            raise UnreadableImageError(f"damaged (it claims {claimed} bytes of values and has {len(values)})")
    return np.frombuffer(values, dtype).reshape(shape)
