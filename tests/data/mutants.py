"""Damages image files of all formats, reads each, and tells of time and memory: run as a process of its own.

    python mutants.py FOLDER FIRST LAST

A crash or a hang of a decoder then ends this process and not the tests; the last line that it printed names the file.
"""

from __future__ import annotations

import gzip
import io
import random
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from PIL import Image

from zsem.data.images import load_images
from zsem.values.errors import ZsemError

RNG = np.random.default_rng(0)
SIDE = 24


def _smooth(channels: int) -> np.ndarray:
    """Smooth and a little noisy, so that every compression has something to do."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    values = 100 + 60 * np.sin(rows / 5) + 60 * np.cos(columns / 7)
    return (values[..., None] + RNG.normal(0, 5, (SIDE, SIDE, channels))).clip(0, 255).astype(np.uint8)


def _pillow(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def _numpy(save: Callable, *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def originals() -> dict[str, bytes]:
    """One file of every format, by a name that ends in its suffix."""
    colours, grey = _smooth(3), _smooth(1)[..., 0]
    deep, floats = colours.astype(np.uint16) * 250, colours.astype(np.float32) / 7
    rgb, alpha = Image.fromarray(colours), Image.fromarray(np.dstack([colours, grey]))
    moving = {"save_all": True, "append_images": [rgb.rotate(90)], "duration": 40}
    table = pa.table({"image": [{"bytes": _pillow(rgb, "PNG"), "path": "a.png"}] * 3, "label": [0, 1, 0]})
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    idx = struct.pack(">BBBBIII", 0, 0, 8, 3, 3, SIDE, SIDE) + np.stack([grey] * 3).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb.png": _pillow(rgb, "PNG", exif=exif), "grey.png": _pillow(Image.fromarray(grey), "PNG"),
        "palette.png": _pillow(rgb.quantize(9), "PNG", transparency=3), "alpha.png": _pillow(alpha, "PNG"),
        "grey16.png": _pillow(Image.fromarray(deep[:, :, 0]), "PNG"), "rgb16.png": imagecodecs.png_encode(deep),
        "rgb.jpg": _pillow(rgb, "JPEG", exif=exif), "progressive.jpg": _pillow(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _pillow(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": _pillow(rgb, "WEBP"), "lossless.webp": _pillow(alpha, "WEBP", lossless=True),
        "moving.webp": _pillow(rgb, "WEBP", **moving),
        "rgb.bmp": _pillow(rgb, "BMP"), "palette.bmp": _pillow(rgb.quantize(9), "BMP"),
        "one.gif": _pillow(rgb, "GIF"), "moving.gif": _pillow(rgb, "GIF", **moving),
        "rgb.tif": _pillow(rgb, "TIFF"), "lzw.tif": _pillow(rgb, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": _pillow(rgb, "TIFF", compression="jpeg"), "grey16.tif": _tiff(deep[:, :, 0]),
        "rgb16.tif": _tiff(deep, photometric="rgb", compression="zlib"), "float.tif": _tiff(floats[:, :, 0]),
        "floats.tif": _tiff(floats, photometric="rgb", compression="lzw"),
        "pages.tif": _tiff(np.stack([grey] * 5), photometric="minisblack"),
        "samples.tif": _tiff(np.dstack([colours] * 2), planarconfig="contig", compression="zstd", photometric=1),
        "tiles.tif": _tiff(np.tile(deep, (2, 2, 1)), photometric="rgb", tile=(16, 16), compression="zlib"),
        "double.tif": _tiff(floats[:, :, 0].astype(np.float64), bigtiff=True),
        "rgb.ppm": _pillow(rgb, "PPM"), "grey16.pgm": b"P5 24 24 65535\n" + deep[:, :, 0].astype(">u2").tobytes(),
        "image.npy": _numpy(np.save, floats), "image.npz": _numpy(np.savez_compressed, colours),
        "set.npz": _numpy(np.savez_compressed, x=np.stack([grey] * 3), y=np.arange(3)),
        "table.parquet": parquet.getvalue(),
        "train-images-idx3-ubyte": idx, "train-images-idx3-ubyte.gz": gzip.compress(idx),
    }  # fmt: skip


ABSURD = (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 4, b"\xff\xff", b"\x00\x01\x00\x00")


def mutant(files: dict[str, bytes], number: int) -> tuple[str, bytes]:
    """Damaged file `number`, the same every time: flipped, cut, spliced, or of an absurd size."""
    draw = random.Random(number)
    name = sorted(files)[number % len(files)]
    data = bytearray(files[name])
    kind = draw.choice(("flip", "flip", "header", "header", "cut", "splice", "absurd", "absurd"))
    near = min(len(data), 200)  # where headers are; those of Parquet and of some TIFF files are at the end
    start = draw.choice((0, len(data) - near))
    if kind == "flip":
        for _ in range(draw.randrange(1, 12)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == "header":
        for _ in range(draw.randrange(1, 5)):
            data[start + draw.randrange(near)] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "splice":
        other = files[draw.choice(sorted(files))]
        a, b = draw.randrange(len(data)), draw.randrange(len(other))
        data[a : a + draw.choice((0, 50))] = other[b : b + draw.randrange(1, 500)]
    else:
        place = start + draw.randrange(near)
        value = draw.choice(ABSURD)
        data[place : place + len(value)] = value
    if data[1:4] == b"PNG" and draw.random() < 0.8:  # else most mutants fail at their first checksum
        _mend_checksums(data)
    return name, bytes(data)


def _mend_checksums(data: bytearray) -> None:
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


def main(folder: Path, first: int, last: int) -> None:
    files = originals()
    read = named = 0
    slowest, memory = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, last):
        name, data = mutant(files, number)
        path = folder / name
        path.write_bytes(data)
        print(number, name, flush=True)
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                images = load_images(path, size=16)
                read += len(images) > 0 and images.pixels.shape[2:] == (16, 16)
            except ZsemError as error:
                text = str(error)
                if name not in text or "\n" in text:
                    raise AssertionError(f"number {number} is not named in one line: {text}") from error
                named += 1
        slowest = max(slowest, time.perf_counter() - started)
        path.unlink()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print("done", read, named, round(slowest, 2), grown // 1024, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
