"""What a training is begun with and goes on with: its settings, and the images that it belongs to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import GenericAlias
from typing import Any, Generic

from pydantic import TypeAdapter, ValidationError

from zsem.data.images import ImageSet
from zsem.training.families import FAMILIES
from zsem.training.images import ImageOptions, Source, read_images
from zsem.training.presets import Preset, find_preset
from zsem.training.presets.files import DEFAULT_KIND, KIND
from zsem.training.presets.preset import ModelConfig, ObjectiveConfig
from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[ModelConfig, ObjectiveConfig]):
    """What a run folder remembers of how it was begun (run.json), so that --resume goes on with the same."""

    preset: Preset[ModelConfig, ObjectiveConfig]
    init: str | None = None
    limit: int | None = None
    reading: ImageOptions = field(default_factory=ImageOptions)
    images: str = ""
    """checksum of the training images"""

    def text(self) -> str:
        """The plan as `stored_plan` reads it."""
        return json.dumps({KIND: self.preset.kind, **asdict(self)}, indent=2) + "\n"


def stored_plan(out: Path) -> Plan:
    """How the training in `out` was begun; raises ZsemError where there is none."""
    path = out / "run.json"
    if not path.exists():
        raise ZsemError(f"{out} holds no training to resume; leave out --resume to begin one")
    anew = f"begin anew with --init {out}"
    try:
        given = json.loads(path.read_text("utf-8"))
        kind: Any = GenericAlias(Plan, FAMILIES[given.pop(KIND, DEFAULT_KIND)].configs)
        return TypeAdapter(kind).validate_json(json.dumps(given))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ZsemError(f"{path}: {where}: {first['msg']}; {anew}") from None
    except (ValueError, LookupError, AttributeError, TypeError):
        raise ZsemError(f"{path} does not say how the training was begun; {anew}") from None


def new_plan(
    kind: str | None,
    preset: str | Path | Preset,
    size: int | tuple[int, int] | None,
    *,
    reading: ImageOptions,
    init: str | None = None,
    config: Any = None,
    limit: int | None = None,
) -> Plan:
    """The preset, or the `config` of the model `init` to start from, at the asked size.

    Raises ZsemError where the preset or `init` is for another kind of model.
    """
    if not isinstance(preset, Preset):
        preset = find_preset(preset, kind)
    elif kind not in {None, preset.kind}:
        raise ZsemError(f"the preset is for a model of kind {preset.kind}, not {kind}")
    if config is not None:
        if type(config) is not type(preset.model):
            raise ZsemError(f"{init} is no model of the kind to train, {preset.kind}: give another --init or --model")
        preset = replace(preset, model=config)
    if size is not None:
        if reading.keep_shape:
            raise ZsemError("give --size or --keep-shape, not both")
        preset = replace(preset, model=replace(preset.model, image_size=size))
    return Plan(preset=preset, init=init, limit=limit, reading=reading)


def images_for(data: Source, plan: Plan, *, resume: bool) -> tuple[ImageSet, Plan]:
    """The images to train on, and the plan with what they ask of the model; raises ZsemError where they do not fit."""
    fixed = resume or plan.init is not None
    images, config = read_images(data, plan.preset.model, plan.reading, limit=plan.limit, fixed=fixed)
    checksum = hashlib.sha256(images.split("train").pixels.numpy().data).hexdigest()
    if resume and plan.images != checksum:
        raise ZsemError("the training to resume had other images; take the same, or begin a new one with --init")
    return images, replace(plan, preset=replace(plan.preset, model=config), images=checksum)
