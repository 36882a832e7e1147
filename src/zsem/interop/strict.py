"""Foreign tensors into a network of ours: every one of them, in its place and shape, or an error that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zsem.interop.layouts import Entry
from zsem.models.base import Model
from zsem.values.errors import ZsemError

ModelT = TypeVar("ModelT", bound=Model)
NAMED = 3  # names in a message


def skeleton(kind: type[ModelT], config: Any, path: Path) -> ModelT:
    """A model without memory for its weights, for `fill`.

    Raises ZsemError where the configuration cannot be built, as happens where attention heads do not fit.
    """
    try:
        with torch.device("meta"):
            return kind(config)
    except ValueError as error:
        raise ZsemError(f"{path} does not fit what was assumed of it: {error}; say otherwise with --heads") from None


def fill(
    network: nn.Module, entries: Sequence[Entry], state: Mapping[str, Tensor], path: Path, *, prefix: str = ""
) -> None:
    """Give a network its parameters, as float32.

    prefix: of the names in messages. Raises ZsemError where tensors are missing, superfluous, or of another shape.
    """
    parameters = dict(network.named_parameters())
    wanted = {name for entry in entries for name in entry.theirs}
    missing, unexpected = sorted(wanted - state.keys()), sorted(state.keys() - wanted)
    if missing or unexpected:
        raise ZsemError(
            f"{path} does not fit the architecture that its shapes speak of: "
            f"{_listed('missing', missing, prefix)}, {_listed('unexpected', unexpected, prefix)}"
        )
    try:
        filled = {entry.ours: entry.read(state, parameters[entry.ours].shape) for entry in entries}
    except ValueError as error:
        raise ZsemError(f"{path} does not fit the architecture that its shapes speak of: {prefix}{error}") from None
    network.load_state_dict(filled, strict=True, assign=True)


def _listed(what: str, names: Sequence[str], prefix: str) -> str:
    if not names:
        return f"nothing {what}"
    shown = ", ".join(prefix + name for name in names[:NAMED])
    return f"{len(names)} {what} ({shown}{' ..' if len(names) > NAMED else ''})"
