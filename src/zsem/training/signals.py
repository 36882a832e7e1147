"""Ctrl-C and SIGTERM as a request to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Set by Ctrl-C or SIGTERM while one listens: the training finishes its iteration, saves and leaves."""

    def __init__(self) -> None:
        self.made = False

    def make(self, *_: object) -> None:
        """Ask for the stop; takes what a signal handler is given."""
        self.made = True

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
