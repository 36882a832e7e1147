"""Commands whose flags are the settings of a preset: which one is read ahead from their arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro
from tyro.conf import arg

from zsem.cli.command import Command
from zsem.training.presets import Preset, preset_type

CommandT = TypeVar("CommandT", bound=Command)


def parse_with(command: type[CommandT], preset: Preset, args: Sequence[str], *, prog: str) -> CommandT:
    """The command from its arguments, its field `settings` with the types and the defaults of a preset."""
    settings = dataclasses.field(default=preset)
    kind = dataclasses.make_dataclass(
        command.__name__,
        [("settings", Annotated[preset_type(preset.kind), arg(name="")], settings)],
        bases=(command,),
        namespace={"__doc__": command.__doc__},
        frozen=True,
        kw_only=True,
    )
    return tyro.cli(kind, args=args, prog=prog)


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """The last value that a flag has among the arguments, or None."""
    found = None
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.partition("=")[2]
    return found
