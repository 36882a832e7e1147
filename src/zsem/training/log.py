"""The record of a training: metrics.jsonl, and the line of progress that is said now and then."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zsem.values.files import write_whole


class Log:
    """metrics.jsonl: one JSON object per line, each with the iteration that it is about."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=10)

    def trim(self, iteration: int) -> None:
        """Drop what the log says of iterations after the checkpoint that training goes on from, and broken lines."""
        if self.path.exists():
            kept = []
            for line in self.path.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    if json.loads(line)["iteration"] <= iteration:
                        kept.append(line + "\n")
            write_whole(self.path, "".join(kept).encode())

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line; raises OSError where the disk is full."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def status(self, iteration: int, left: float) -> str:
        """One line: iteration, loss, images/s over the last records of losses, time left (seconds)."""
        if len(self.recent) < 2:
            return f"iteration {iteration}"
        first, last = self.recent[0], self.recent[-1]
        speed = (last["images"] - first["images"]) / max(last["seconds"] - first["seconds"], 1e-9)
        return f"iteration {iteration}  loss {last['loss']:.4f}  {speed:.0f} images/s  {clock(left)} left"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    if math.isinf(seconds):
        return "?"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
