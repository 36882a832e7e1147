"""What all commands share: how they are parsed, how they report, how they show progress."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff

from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a command has to say when it is done.

    figures: what `--json` prints, JSON-able but for non-finite numbers, which become null.
    rows: the same for people, as the rows of a table; every row has the first one's columns.
    notes: lines below the table, e.g. where the files are.
    """

    figures: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]] = ()
    notes: Sequence[str] = ()

    def show(self, *, as_json: bool) -> None:
        """Print the figures or the table to stdout."""
        if as_json:
            print(json.dumps(finite(self.figures), allow_nan=False))
            return
        if self.rows:
            from rich import box
            from rich.console import Console
            from rich.table import Table

            # a pipe has no width; a narrow terminal breaks long names rather than hiding what makes them differ
            console = Console() if sys.stdout.isatty() else Console(width=1000)
            table = Table(box=box.SIMPLE_HEAD)
            for number, column in enumerate(self.rows[0]):
                table.add_column(column, justify="right" if number else "left", overflow="fold")
            for row in self.rows:
                table.add_row(*row.values())
            console.print(table)
        for note in self.notes:
            print(note)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `zsem`: its fields are the arguments."""

    json: FlagCreatePairsOff[bool] = False
    """print the figures as one JSON object to stdout, and nothing else there"""

    def run(self) -> Report:
        """Do it."""
        raise NotImplementedError

    @classmethod
    def parse(cls, args: Sequence[str], *, prog: str) -> Command:
        """The command from its arguments. Help and complaints are printed and end in SystemExit."""
        return tyro.cli(cls, args=args, prog=prog)


def finite(value: Any) -> Any:
    """`value` with None in place of infinities and NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def named_numbers(text: str, flag: str, example: str) -> dict[str, float]:
    """The names and numbers of a flag that takes NAME=NUMBER,.. ; ZsemError, with the example, where it does not."""
    numbers: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name.strip() in numbers:
            raise ZsemError(f"{flag} {text} asks for {name.strip()} twice: leave out one of the two")
        try:
            numbers[name.strip()] = float(value)
        except ValueError:
            raise ZsemError(f"{flag} {text} is not understood at {part.strip()!r}: write {example}") from None
    if not all(math.isfinite(value) for value in numbers.values()):
        raise ZsemError(f"{flag} {text} asks for what is no number: write {example}")
    return numbers


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr where that is a terminal; gives the function to call with (done, all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
