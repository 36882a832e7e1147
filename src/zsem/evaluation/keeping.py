"""Results that are kept when they are done, so that the same command goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zsem.data.images import ImageSet
from zsem.values.files import read_metadata, read_tensors, write_whole


def fingerprint(images: ImageSet) -> str:
    """Sixteen hexadecimal digits that name images, their labels, groups and splits, in their order."""
    digest = hashlib.sha256()
    if all(images.sha256):
        digest.update("".join(images.sha256).encode())
    else:  # from memory, not from files
        for part in images.pixels.split(256):
            digest.update(part.contiguous().numpy().tobytes())
    for about in (images.paths, images.splits, images.groups, images.class_names, images.classes.tolist()):
        digest.update(json.dumps(about).encode())
    for name, values in images.attributes.items():
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()[:16]


def digest(about: Any) -> str:
    """Eight hexadecimal digits that name what is JSON-able, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]


def cleaned(name: str) -> str:
    """A name with a hyphen for all that paths may not have."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def write_kept(path: Path, origin: Mapping[str, Any], result: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Keep a JSON-able result with its tensors and what both depend on (`origin`), whole or not at all."""
    import safetensors.torch

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"origin": json.dumps(origin), "result": json.dumps(result)}
    write_whole(path, safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()}, metadata))


def read_kept(path: Path, origin: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What `write_kept` kept; None where there is nothing, or it depends on something else.

    Raises ZsemError where the file is damaged.
    """
    if not path.exists():
        return None
    tensors = read_tensors(path, "delete it, and what it held is measured again")
    metadata = read_metadata(path)
    if metadata.get("origin") != json.dumps(origin):
        return None
    return json.loads(metadata["result"]), tensors
