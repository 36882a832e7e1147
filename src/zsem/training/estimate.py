"""What a training will take on this machine: a few iterations, measured."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from zsem.data.batches import Batches
from zsem.training import checkpoint
from zsem.training.loop import Loop
from zsem.training.machine import peak_memory

WARM_UP, MEASURED = 2, 5  # iterations
ENOUGH_SECONDS = 60.0  # after which a slow model is measured no further

FLOAT16, FLOAT32 = 2, 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Speed, memory and room on the disk of a training, measured on its own images and settings."""

    images_per_second: float
    """Over all devices; checkpoints, pictures and validations, which come on top, take a few per cent."""
    batch_size: int
    """Images per iteration."""
    parameters: int
    """Of all networks that are trained."""
    peak_memory: int | None
    """Bytes that this process (or, on a GPU, its tensors) held at most; None where the system does not tell."""
    checkpoint_size: int
    """Bytes of one checkpoint; the run keeps two."""
    run_size: int
    """Bytes of all that the run folder holds at most, but for pictures."""

    def seconds(self, images: int) -> float:
        """How long it takes to go through so many images."""
        return images / self.images_per_second

    def iterations(self, seconds: float) -> int:
        """How many iterations there are in so much time."""
        return int(seconds * self.images_per_second / self.batch_size)


def measure(loop: Loop, batches: Batches) -> Estimate:
    """Measure a loop that has not run yet; its weights are as they were, its progress is not."""
    started = time.perf_counter()
    times: list[float] = []
    for number in range(WARM_UP + MEASURED):
        before = time.perf_counter()
        loop.step(batches, 0.0)
        if number >= WARM_UP:
            times.append(time.perf_counter() - before)
            if time.perf_counter() - started > ENOUGH_SECONDS:
                break
    size, model = loop.config.batch_size, loop.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tensors = [tensor for network in loop.kept.values() for tensor in network.state_dict().values()]
    for optimiser in loop.optimisers.values():
        tensors += checkpoint.optimiser_tensors(optimiser).values()
    one = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    snapshot = FLOAT16 * parameters * len(loop.averages)
    return Estimate(
        images_per_second=size / statistics.median(times),
        batch_size=size,
        parameters=parameters,
        peak_memory=peak_memory(loop.accelerator.device),
        checkpoint_size=one,
        run_size=checkpoint.KEPT * one + FLOAT32 * parameters + loop.config.ema_snapshots * snapshot,
    )
