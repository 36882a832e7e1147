"""Checkpoints of other projects, read by what they hold and not by what they are called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsem.interop.pickles import DOWNLOAD, read_pickle
from zsem.values.files import read_tensors


@dataclass(frozen=True)
class Checkpoint:
    """What a foreign file holds.

    content: a dict of tensors where the file is of safetensors, else as `zsem.interop.pickles.Pickle` has it.
    path: where it was read.
    sha256: of the file's bytes, in hexadecimal.
    stubs: names of what is not known here and was not run, sorted.
    """

    content: Any
    path: Path
    sha256: str
    stubs: tuple[str, ...]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of safetensors or of torch.save, whatever its name, running nothing that is in it.

    ZsemError: no such file, of neither format, truncated or damaged, or asking for what is not safe.
    """
    path = Path(path)
    if _is_safetensors(path):
        content, stubs = read_tensors(path, DOWNLOAD), ()
    else:
        pickled = read_pickle(path)
        content, stubs = pickled.content, pickled.stubs
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(content, path, sha256, stubs)


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors do: the length of a header, and the header, which is JSON."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False  # the other reader says why
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**32
