"""Checkpoints of a running training: whole folders, written under a temporary name and renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from zsem.models.base import RESTORE, read_weights
from zsem.values.errors import ZsemError
from zsem.values.files import read_tensors, write_whole
from zsem.values.objective import Adaptive

KEPT = 2  # the newest, and the one before in case the newest is damaged on the disk
OBJECTIVE = "objective.safetensors"  # what the objective has learned from its losses, where it does
WEIGHTS, AVERAGE = "weights", "average-"  # names of the networks in a checkpoint; sigma_rel follows for an average


@dataclass(kw_only=True)
class Progress:
    """How far a training has come. `losses` are those since the last line of the log."""

    iteration: int = 0
    images: int = 0
    seconds: float = 0.0
    losses: list[float]


def write(
    folder: Path,
    progress: Progress,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    adaptive: Adaptive | None = None,
) -> Path:
    """Write a checkpoint below `folder` and drop all but the newest KEPT; raises
    ZsemError or OSError where the disk is full."""
    final = folder / f"{progress.iteration:08d}"
    temporary = hidden(final, "new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, network in networks.items():
            write_whole(temporary / f"{name}.safetensors", safetensors.torch.save(contiguous(network.state_dict())))
        for name, optimiser in optimisers.items():
            write_whole(
                temporary / f"optimiser-{name}.safetensors", safetensors.torch.save(optimiser_tensors(optimiser))
            )
        if adaptive is not None and (learned := adaptive.state_dict()):
            write_whole(temporary / OBJECTIVE, safetensors.torch.save(contiguous(learned)))
        write_whole(temporary / "progress.json", json.dumps(asdict(progress)).encode())
        if final.exists():  # damaged, or training went on from an older one
            remove(final)
        temporary.rename(final)
    except (ZsemError, OSError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in complete(folder)[:-KEPT]:
        remove(old)
    return final


def remove(path: Path) -> None:
    """Delete a checkpoint so that no half of it is ever seen."""
    gone = hidden(path, "old")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone)


def hidden(path: Path, what: str) -> Path:
    """Where a checkpoint lies while it is written or deleted."""
    return path.with_name(f".{path.name}.{what}.tmp")


def sweep(run: Path) -> None:
    """Remove what killed runs left half-written in a run folder."""
    for left in (run / "checkpoints").glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    for place in (".", "averages", "pictures", "snapshots/*"):
        for left in run.glob(f"{place}/.*.[0-9]*.tmp"):  # as write_whole names them
            left.unlink(missing_ok=True)


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints below `folder`, oldest first."""
    return sorted(path.parent for path in folder.glob("[0-9]*/progress.json"))


def read(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    adaptive: Adaptive | None = None,
) -> Progress:
    """Put the checkpoint at `path` back into networks, optimisers and objective; ZsemError where it is damaged."""
    for name, network in networks.items():
        network.load_state_dict(read_weights(path / f"{name}.safetensors", network.state_dict()))
    for name, optimiser in optimisers.items():
        restore_optimiser(optimiser, read_tensors(path / f"optimiser-{name}.safetensors", RESTORE))
    if adaptive is not None and (learned := adaptive.state_dict()):
        adaptive.load_state_dict(read_weights(path / OBJECTIVE, learned))
    try:
        return Progress(**json.loads((path / "progress.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        raise ZsemError(f"{path / 'progress.json'} is missing or damaged; {RESTORE}") from None


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict as safetensors takes them: on the CPU and contiguous."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors: "parameter number / quantity"."""
    state = optimiser.state_dict()["state"]
    return contiguous({f"{number}/{key}": value for number, row in state.items() for key, value in row.items()})


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimiser_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split("/")
        state.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
