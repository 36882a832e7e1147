"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from torch import Tensor

from zsem.values.errors import ZsemError


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name, flush it to the disk, and rename.

    Raises ZsemError where the disk is full or not writable; what was at `path` before is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ZsemError(
            f"could not write {path} ({error.strerror}); what was there before is untouched: free some room and repeat"
        ) from error


def read_format(
    path: Path, name: str, version: int, *, holds: str, mend: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that says that it has this format and version.

    holds: what such files hold, for people.
    Raises ZsemError where the file is missing, damaged, of another format or another version.
    """
    tensors, metadata = read_tensors(path, mend), read_metadata(path)
    if metadata.get("format") != name:
        raise ZsemError(f"{path} holds no {holds} of zsem; {mend}")
    if metadata.get("version") != str(version):
        raise ZsemError(f"{path} has version {metadata.get('version')}; this zsem reads version {version}")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the head of a safetensors file that is whole."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_tensors(path: Path, mend: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises ZsemError, which ends in `mend`, where it is missing or damaged."""
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise ZsemError(f"{path} is missing; {mend}") from None
    except safetensors.SafetensorError as error:
        raise ZsemError(f"{path} is damaged ({error}); {mend}") from None
