"""Ready-made configurations: sizes for a CPU, and those of the paper (DiffAE, supplement A, Table 6); their files."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.training.loop import Loop
from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """All that a training is made of, but the images and the time."""

    model: DiffusionAutoencoder.Config = field(default_factory=DiffusionAutoencoder.Config)
    """the networks"""
    objective: AutoencoderObjective.Config = field(default_factory=AutoencoderObjective.Config)
    """the loss"""
    training: Loop.Config = field(default_factory=Loop.Config)
    """the loop"""
    recommended_images: int = 500_000
    """images to go through for a good model, repeats counted; --estimate tells how long that takes"""


def published(
    size: int, channels: int, mult: tuple[int, ...], encoder_mult: tuple[int, ...], batch_size: int, millions: int
) -> Preset:
    """A configuration of the paper: eps-prediction with L_simple, Adam 1e-4 without warm-up, dropout 0.1."""
    return Preset(
        model=DiffusionAutoencoder.Config(
            image_size=size,
            z_dim=512,
            prediction="eps",
            unet=UNet.Config(channels=channels, channel_mult=mult, dropout=0.1),
            encoder=SemanticEncoder.Config(channels=channels, channel_mult=encoder_mult),
        ),
        objective=AutoencoderObjective.Config(weighting="simple", timesteps="uniform"),
        training=Loop.Config(batch_size=batch_size, learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup=0),
        recommended_images=millions * 10**6,
    )


PRESETS: dict[str, Preset] = {
    "nano": Preset(
        model=DiffusionAutoencoder.Config(
            image_size=32,
            z_dim=64,
            unet=UNet.Config(channels=64, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=256, patch=2),
            encoder=SemanticEncoder.Config(
                channels=32, channel_mult=(1, 2, 4), attention_resolutions=(), patch=2, pool=2, num_res_blocks=1
            ),
        ),
        training=Loop.Config(learning_rate=1e-3, warmup=100, checkpoint_minutes=1.0, picture_minutes=1.0),
        recommended_images=300_000,
    ),
    "tiny": Preset(
        model=DiffusionAutoencoder.Config(
            image_size=64,
            z_dim=128,
            unet=UNet.Config(channels=96, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=384, patch=4),
            encoder=SemanticEncoder.Config(
                channels=32, channel_mult=(1, 2, 4, 4), attention_resolutions=(8,), patch=2, pool=4
            ),
        ),
    ),
    "paper64": published(64, 64, (1, 2, 4, 8), (1, 2, 4, 8, 8), batch_size=128, millions=72),
    "paper128": published(128, 128, (1, 1, 2, 3, 4), (1, 1, 2, 3, 4, 4), batch_size=128, millions=130),
    "paper256": published(256, 128, (1, 1, 2, 2, 4, 4), (1, 1, 2, 2, 4, 4, 4), batch_size=64, millions=90),
}

BASE = "base"  # the key of a preset file that names what the rest is taken from


def find_preset(name: str | Path) -> Preset:
    """A preset by its name in `PRESETS`, or from a JSON file, which may say "base": "tiny" and only what differs.

    Raises ZsemError where there is no such preset, or a file is damaged, incomplete, or has unknown or wrong settings.
    """
    if str(name) in PRESETS:
        return PRESETS[str(name)]
    path = Path(name)
    if path.suffix != ".json" and not path.is_file():
        raise ZsemError(f"there is no preset {str(name)!r}; choose one of {', '.join(PRESETS)}, or give a .json file")
    try:
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ZsemError(f"the preset {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ZsemError(
            f"{path} is not JSON ({error}); `zsem presets tiny > {path}` writes one to begin with"
        ) from None
    return parse_preset(given, path)


def parse_preset(given: Any, path: Path) -> Preset:
    """The preset that the content of the file `path` describes; errors as in `find_preset`."""
    if not isinstance(given, dict):
        raise ZsemError(f"{path} is no preset: it must be a JSON object, as `zsem presets tiny` shows")
    base = given.get(BASE)
    given = {name: value for name, value in given.items() if name != BASE}
    if base is not None and (not isinstance(base, str) or base not in PRESETS):
        raise ZsemError(f"{path}: there is no preset {base!r} to begin with; choose one of {', '.join(PRESETS)}")
    whole = asdict(Preset() if base is None else PRESETS[base])
    missing = merge(whole, given, path)
    if base is None and missing:
        raise ZsemError(f'{path} leaves out {missing[0]}; add "base": "tiny" to take what is left out from there')
    try:
        return TypeAdapter(Preset).validate_json(json.dumps(whole), strict=True)
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


def preset_json(preset: Preset) -> str:
    """A preset as the text of a file that `find_preset` reads."""
    return json.dumps(asdict(preset), indent=2)
