"""Ctrl-C and SIGTERM as a request to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator


class StopRequest:
    """Set by Ctrl-C or SIGTERM while one listens: the training finishes its iteration, saves and leaves."""

    def __init__(self) -> None:
        self.made = False

    def make(self, *_: object) -> None:
        """Ask for the stop; takes what a signal handler is given."""
        self.made = True

    def agree(self, accelerator: Accelerator, seconds: float) -> float:
        """One will and one clock for all processes: a stop that any of them was asked for, and the slowest clock."""
        if accelerator.num_processes == 1:
            return seconds
        mine = torch.tensor([seconds, float(self.made)], device=accelerator.device)
        everyone = accelerator.gather(mine)
        assert isinstance(everyone, torch.Tensor)
        slowest, stop = everyone.view(-1, 2).amax(dim=0).tolist()
        self.made = stop > 0
        return slowest

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals; what handled them before comes back."""
        handled = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, self.make) for number in handled}
        except ValueError:  # not in the main thread: signals are somebody else's business
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
