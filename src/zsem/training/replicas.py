"""A batch shared by copies of the networks, one to a thread: on CPUs threads that work alone beat threads that wait.

torch splits every operation among its threads and waits for the slowest of them; where another process takes a core
away, all wait. Copies with their own parts of the batch meet once per iteration.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from zsem.values.errors import ZsemError

T = TypeVar("T")
MOST = 4  # beyond that the parts of a usual batch are too small to keep a core busy


class Replicas:
    """Networks, and copies of them that share their weights but not their gradients.

    sets: the networks themselves first, then the copies, by the names of `networks`.
    """

    def __init__(self, networks: Mapping[str, nn.Module], number: int) -> None:
        """number: how many sets in all; with 1 everything is done in the calling thread."""
        copies = [{name: twin(network) for name, network in networks.items()} for _ in range(number - 1)]
        self.sets: list[Mapping[str, nn.Module]] = [networks, *copies]
        self._threads = max(1, torch.get_num_threads() // number)
        self._pool = ThreadPoolExecutor(number) if number > 1 else None

    @property
    def number(self) -> int:
        return len(self.sets)

    def run(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Do each piece of work in a thread of its own, with its share of torch's threads; the results in order."""
        if self._pool is None:
            return [work() for work in works]

        def alone(work: Callable[[], T]) -> T:
            torch.set_num_threads(self._threads)  # of this thread alone
            return work()

        return list(self._pool.map(alone, works))

    def gather(self) -> None:
        """Move the copies' gradients to the networks themselves, added up in a fixed order."""
        for copies in self.sets[1:]:
            for name, network in self.sets[0].items():
                for mine, other in zip(network.parameters(), copies[name].parameters(), strict=True):
                    if other.grad is not None:
                        mine.grad = other.grad if mine.grad is None else mine.grad.add_(other.grad)
                        other.grad = None


def twin(network: nn.Module) -> nn.Module:
    """A copy that shares the weights, whatever happens to them later in place."""
    other = copy.deepcopy(network)
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        its.data = mine.data
    return other


def how_many(
    networks: Mapping[str, nn.Module], wanted: int | None, device: torch.device, batch_size: int, single: bool = True
) -> int:
    """How many sets of networks are to share a batch: `wanted`, or as many as torch has threads on a CPU, up to MOST.

    One where several processes share it already (`single` False), and by default where dropout is drawn.
    Raises ZsemError for a number below one, or above one where dropout is drawn.
    """
    if wanted is not None and wanted < 1:
        raise ZsemError(f"training.replicas must be at least 1, not {wanted}")
    if not single:
        return 1
    if draws_dropout(networks):
        if (wanted or 1) > 1:
            raise ZsemError("dropout is drawn in one order only: train with training.replicas 1, or without dropout")
        return 1
    return wanted or (max(1, min(MOST, torch.get_num_threads(), batch_size)) if device.type == "cpu" else 1)


def draws_dropout(networks: Mapping[str, nn.Module]) -> bool:
    """Whether a network draws random numbers from torch's one generator."""
    return any(
        isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        for network in networks.values()
        for module in network.modules()
    )
