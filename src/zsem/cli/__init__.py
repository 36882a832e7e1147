"""The command line: one dataclass per command in, calls into the package, one report out.

This module answers `zsem --help` from a static table, without importing tyro or torch. A command's module is imported
when the command is run.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.cli.command import Command

# command: (arguments as shown in the help, summary, module and class)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "train": (
        "DATA --out RUN",
        "train a diffusion autoencoder, or another model, on a folder or archive of images",
        "zsem.cli.train:Train",
    ),
    "presets": ("[PRESET]", "list the settings of `train`, or print one to copy", "zsem.cli.presets:Presets"),
    "ema": ("RUN", "average a run's weights over another length", "zsem.cli.ema:Ema"),
    "encode": ("RUN IMAGES --out FILE", "turn images into a file of codes", "zsem.cli.codes:Encode"),
    "decode": ("RUN FILE --out DIR", "turn a file of codes into images", "zsem.cli.codes:Decode"),
    "reconstruct": (
        "RUN IMAGES --out DIR",
        "encode and decode images, and measure the difference",
        "zsem.cli.reconstruct:Reconstruct",
    ),
    "vary": (
        "RUN IMAGES --out DIR",
        "draw other images with the same semantic code",
        "zsem.cli.variations:Vary",
    ),
    "mix": (
        "RUN A B --out DIR",
        "semantic codes of A with the stochastic codes of B",
        "zsem.cli.variations:Mix",
    ),
    "sample": (
        "RUN --out DIR",
        "make new images, of classes, with attributes and under guidance where the model has them",
        "zsem.cli.sample:Sample",
    ),
    "prior": (
        "RUN DATA",
        "learn what codes are like, so that an autoencoder makes new images",
        "zsem.cli.prior:FitPrior",
    ),
    "fewshot": (
        "RUN --positive DIR",
        "make new images that have what a handful of examples have",
        "zsem.cli.fewshot:MakeFewShot",
    ),
    "attributes": (
        "RUN DATA",
        "learn attributes from labels, and tell how well z knows them",
        "zsem.cli.attributes:Attributes",
    ),
    "directions": (
        "RUN [DATA] --method M",
        "write directions of attributes or components as files",
        "zsem.cli.directions:Directions",
    ),
    "edit": (
        "RUN IMAGES --set A=P --out DIR",
        "change attributes of images, within a mask, at full size",
        "zsem.cli.edits:Edit",
    ),
    "interpolate": ("RUN A B --out FILE", "morph one image into another", "zsem.cli.edits:Interpolate"),
    "align": (
        "IMAGES --out DIR",
        "cut FFHQ-aligned square faces out of photos, as face checkpoints expect them",
        "zsem.cli.align:Align",
    ),
    "info": ("RUN", "what a model is and how it was trained", "zsem.cli.info:Info"),
    "import": ("FILE.. --out RUN", "turn foreign checkpoints into a model", "zsem.cli.interop:Import"),
    "export": ("RUN --out DIR", "write a model as a diffusers pipeline", "zsem.cli.interop:Export"),
    "hspace intervals": (
        "RUN DATA",
        "measure at which timesteps to edit in the bottleneck",
        "zsem.cli.hspace:HspaceIntervals",
    ),
    "hspace study": (
        "RUN DATA --out DIR",
        "compare ways to edit in the bottleneck, on one page",
        "zsem.cli.hspace_study:HspaceStudy",
    ),
    "bench edit": ("RUN DATA --out DIR", "measure how good edits are", "zsem.cli.bench:BenchEdit"),
    "evaluate": ("RUN DATA --out DIR", "judge a model on held-out images, on one page", "zsem.cli.evaluate:Evaluate"),
    "data avatars": ("--out DIR", "render labelled cartoon faces", "zsem.cli.data:Avatars"),
    "data digits": ("--out DIR", "write 1,797 handwritten digits", "zsem.cli.data:Digits"),
    "data info": ("PATH", "count the images of a folder or archive", "zsem.cli.data:DataInfo"),
}
FAMILIES = {name.split()[0] for name in COMMANDS if " " in name}
HELP = {"-h", "--help", "help"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 2 for what the user can mend, 1 for a defect, 130 for Ctrl-C.

    argv: the arguments after `zsem`; those of the process where it is None. `--debug`, anywhere among them, shows the
    traceback of an error, which is one sentence otherwise.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.filterwarnings("default", category=UserWarning)
            code = _dispatch(args)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # The reader, e.g. `head`, has seen enough; without this Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("stopped", 130, debug)
    except ZsemError as error:
        return _fail(str(error), 2, debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2, debug)
    except Exception as error:  # the outermost edge: a user is owed a sentence, and --debug gives the rest
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"unexpected {what} (a defect of zsem; --debug shows where)", 1, debug)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in HELP:
        print(_overview())
        return 0
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"zsem {version('zsem')}")
        return 0
    name, rest = args[0], args[1:]
    if name in FAMILIES:
        if not rest or rest[0] in HELP:
            print(_overview(name))
            return 0
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, [*COMMANDS, *FAMILIES], n=1)
        hint = f"did you mean `zsem {close[0]}`?" if close else "`zsem --help` lists the commands"
        raise ZsemError(f"there is no command {name!r}; {hint}")
    command = _parse(name, rest)
    if command is None:
        return 0
    # Whatever a library prints while the command runs must not get between --json and its reader
    with redirect_stdout(sys.stderr):
        report = command.run()
    report.show(as_json=command.json)
    return 0


def _parse(name: str, args: list[str]) -> Command | None:
    """The command with its arguments, or None where its help was shown; a ZsemError where they make no sense."""
    module, cls = COMMANDS[name][2].split(":")
    kind: type[Command] = getattr(importlib.import_module(module), cls)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return kind.parse(args, prog=f"zsem {name}")
    except SystemExit as end:
        if not end.code:
            return None
        raise ZsemError(f"{_sentence(complaint.getvalue())} (`zsem {name} --help` explains)") from None


def _sentence(box: str) -> str:
    """What tyro's framed complaint says, as one line.

    Its layout: a title, paragraphs between rules, help texts far indented; a frame of two columns around it, which is
    blank where the terminal has no box characters.
    """
    paragraphs: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line.strip("│╰╯ ")
        if not text.strip("─-"):
            paragraphs.append([])
        elif not line[2:].startswith(" " * 8):
            paragraphs[-1].append(text)
    what, *more = (" ".join(lines) for lines in paragraphs if lines)
    what = re.sub(r"^Missing from zsem [a-z ]+:", "these are missing:", what)
    guess = next((re.search(r"--[\w.-]+", text) for text in more if text.startswith("Perhaps you meant")), None)
    return f"{what}; did you mean {guess[0]}?" if guess else what


def _overview(family: str | None = None) -> str:
    shown = {name: entry for name, entry in COMMANDS.items() if family is None or name.split()[0] == family}
    usage = {name: f"zsem {name} {arguments}" for name, (arguments, _, _) in shown.items()}
    width = max(map(len, usage.values()))
    lines = [f"  {usage[name]:<{width}}  {summary}" for name, (_, summary, _) in shown.items()]
    return "\n".join(
        [
            "zsem turns images into codes that people can read, edit and decode.",
            "",
            *lines,
            "",
            "`zsem COMMAND --help` explains a command. --json prints its figures for programs, --debug shows the",
            "traceback of an error, `zsem --version` the version.",
        ]
    )


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"zsem: note: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"zsem: {sentence}", file=sys.stderr)
    return code
