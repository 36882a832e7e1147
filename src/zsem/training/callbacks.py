"""What is told of a training while it runs: any callable, and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from zsem.models.base import Model
from zsem.values.errors import ZsemError


@runtime_checkable
class Callback(Protocol):
    """Called on the main process with every record of metrics.jsonl and the averaged model.

    record: "iteration", "images" and "seconds", and either "loss" and "learning_rate" or the figures of a "validation".
    model: the averaged weights, in evaluation mode; not to be changed.
    An OSError or ZsemError is told and the training goes on; other exceptions end it.
    """

    def __call__(self, record: Mapping[str, Any], model: Model) -> None: ...


@contextmanager
def tensorboard(folder: Path, iteration: int = 0) -> Iterator[Callback]:
    """A callback that writes all numbers of the records to `folder` for TensorBoard.

    iteration: what an earlier run wrote after it is dropped.
    Raises ZsemError where the package is missing.
    """
    try:
        import tensorboard  # noqa: F401  torch's own complaint does not say which extra has it
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ZsemError("TensorBoard is not installed: pip install 'zsem[track]'") from None
    writer = SummaryWriter(str(folder), purge_step=iteration + 1)

    def write(record: Mapping[str, Any], model: Model) -> None:
        for name, value in numbers(record):
            if name != "iteration":
                writer.add_scalar(name, value, record["iteration"])
        writer.flush()

    try:
        yield write
    finally:
        writer.close()


def numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings, their names joined by slashes."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            yield f"{prefix}{name}", float(value)
