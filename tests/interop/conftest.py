"""Files of torch.save, made by hand."""

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

LEGACY = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03.", b"\x80\x02}.")
"""The pickles in front of the content: magic number, version, and facts about the machine."""


@pytest.fixture
def write_zip(tmp_path: Path) -> Callable[..., Path]:
    """A file of the zip format, from the pickle and the bytes of the storages by key."""

    def write(data: bytes, storages: Mapping[str, bytes] = {}, compression: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / "made.pt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", data)
            for key, values in storages.items():
                archive.writestr(f"archive/data/{key}", values)
        return path

    return write


@pytest.fixture
def write_legacy(tmp_path: Path) -> Callable[..., Path]:
    """A file of the legacy format, from the pickle and the float32 storages by key; `replace` replaces a pickle."""

    def write(data: bytes, storages: Mapping[str, bytes] = {}, replace: Mapping[int, bytes] = {}) -> Path:
        keys = b"\x80\x02](" + b"".join(b"X" + struct.pack("<I", len(key)) + key.encode() for key in storages) + b"e."
        pickles = [*LEGACY, data, keys]
        for place, other in replace.items():
            pickles[place] = other
        values = [struct.pack("<q", len(values) // 4) + values for values in storages.values()]
        path = tmp_path / "made-legacy.pt"
        path.write_bytes(b"".join(pickles + values))
        return path

    return write
