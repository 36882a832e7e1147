"""Presets as files: one's own settings, whole or as a difference to a preset by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zsem.training.presets.preset import Preset, preset_type
from zsem.training.presets.table import PRESETS
from zsem.values.errors import ZsemError

KIND = "kind"  # the key of a preset file that names the kind of model that it is for
BASE = "base"  # the key that names the preset that all else is taken from
DEFAULT_KIND = "autoencoder"


def find_preset(name: str | Path, kind: str | None = None) -> Preset:
    """A preset by its name in `PRESETS`, or from a JSON file, which may say "base": "tiny" and only what differs.

    kind: of the model; by default what the file says, or an autoencoder.
    Raises ZsemError where there is no such preset, it is for another kind of model, or a file is damaged, incomplete,
    or has unknown or wrong settings.
    """
    named = presets_of(DEFAULT_KIND if kind is None else kind)
    if str(name) in named:
        return named[str(name)]
    path = Path(name)
    if path.suffix != ".json" and not path.is_file():
        others = [other for other, theirs in PRESETS.items() if str(name) in theirs]
        hint = f"; --model {' or '.join(others)} has one of this name" if others else ""
        raise ZsemError(
            f"there is no preset {str(name)!r} for --model {kind or DEFAULT_KIND}{hint}; choose one of "
            f"{', '.join(named)}, or give a .json file"
        )
    try:
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ZsemError(f"the preset {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ZsemError(
            f"{path} is not JSON ({error}); `zsem presets tiny > {path}` writes one to begin with"
        ) from None
    return parse_preset(given, path, kind)


def presets_of(kind: str) -> dict[str, Preset]:
    """The presets for models of a kind, by name; raises ZsemError where there is no such kind."""
    if kind not in PRESETS:
        raise ZsemError(f"there is no kind of model {kind!r} to train; choose one of {', '.join(PRESETS)}")
    return PRESETS[kind]


def parse_preset(given: Any, path: Path, kind: str | None = None) -> Preset:
    """The preset that the content of the file `path` describes; arguments and errors as in `find_preset`."""
    if not isinstance(given, dict):
        raise ZsemError(f"{path} is no preset: it must be a JSON object, as `zsem presets tiny` shows")
    said, base = given.get(KIND, DEFAULT_KIND if kind is None else kind), given.get(BASE)
    if kind is not None and said != kind:
        raise ZsemError(f"{path} is a preset for --model {said}, not {kind}")
    if not isinstance(said, str) or said not in PRESETS:
        raise ZsemError(f"{path}: there is no kind of model {said!r}; choose one of {', '.join(PRESETS)}")
    named = PRESETS[said]
    given = {name: value for name, value in given.items() if name not in {KIND, BASE}}
    if base is not None and (not isinstance(base, str) or base not in named):
        raise ZsemError(f"{path}: there is no preset {base!r} to begin with; choose one of {', '.join(named)}")
    whole = asdict(next(iter(named.values())) if base is None else named[base])
    missing = merge(whole, given, path)
    if base is None and missing:
        raise ZsemError(f'{path} leaves out {missing[0]}; add "base": "tiny" to take what is left out from there')
    try:
        return TypeAdapter(preset_type(said)).validate_json(json.dumps(whole), strict=True)
    except ZsemError as error:
        raise ZsemError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ZsemError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from None


def merge(whole: dict[str, Any], given: Mapping[str, Any], path: Path, prefix: str = "") -> list[str]:
    """Put the settings that are given into `whole`; returns the dotted names of those that are not."""
    for name in given:
        if name not in whole:
            near = difflib.get_close_matches(name, whole, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(whole)}"
            raise ZsemError(f"{path}: {prefix}{name} is no setting of a preset; {hint}")
    missing = []
    for name, default in whole.items():
        if name not in given:
            missing.append(prefix + name)
        elif isinstance(default, dict) and isinstance(given[name], dict):
            missing += merge(default, given[name], path, f"{prefix}{name}.")
        else:
            whole[name] = given[name]
    return missing


def preset_settings(preset: Preset) -> dict[str, Any]:
    """A preset as the content of a file that `find_preset` reads."""
    return {KIND: preset.kind, **asdict(preset)}


def preset_json(preset: Preset) -> str:
    """The same as the text of the file."""
    return json.dumps(preset_settings(preset), indent=2)
