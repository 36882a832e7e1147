"""One face from its parts, attributes and pose: DiceBear makes an SVG, resvg rasterises it, one affine map poses it.

Free of torch, so that the processes that render in parallel start at once.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.resources
import importlib.util
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from zsem.data.avatar_styles import STYLES, AvatarStyle
from zsem.values.errors import ZsemError

PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py")
SUPERSAMPLING = 2


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How a face lies in its picture and how bright it is.

    shift_x, shift_y: fractions of the picture's width, positive to the right and down.
    scale: 1 = as drawn, larger = nearer.
    degrees: rotation, positive clockwise.
    brightness: factor on every pixel.
    """

    shift_x: float = 0.0
    shift_y: float = 0.0
    scale: float = 1.0
    degrees: float = 0.0
    brightness: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Face:
    """All that makes one face: its parts by slot, its attributes, its pose."""

    parts: Mapping[str, str]
    attributes: Mapping[str, bool]
    pose: Pose


def versions() -> dict[str, str]:
    """Versions of the packages that draw, or a ZsemError where they are not installed."""
    try:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise ZsemError(
            f"faces are drawn by the package {error.name}, which is not installed: pip install 'zsem[avatars]'"
        ) from None


def dicebear_options(style: AvatarStyle, face: Face) -> dict[str, Any]:
    """The DiceBear options of a face: every option is pinned to one value, so that nothing is left to chance."""
    options: dict[str, Any] = {"seed": "zsem"}
    for option, rule in style.options.items():
        pairs = ((None, rule),) if isinstance(rule, str) else rule
        part = next(part for attribute, part in pairs if attribute is None or face.attributes[attribute])
        options[option] = [face.parts[part]]
    for component, attribute in style.shown.items():
        visible = attribute is not None and face.attributes[attribute]
        options[f"{component}Probability"] = 100 if visible else 0
    return options


@functools.cache
def _dicebear_style(name: str) -> Any:
    from dicebear import Style

    text = importlib.resources.files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")
    return Style(json.loads(text))


def render(style_name: str, face: Face, size: int) -> np.ndarray:
    """Draw `face` at `size` pixels: uint8 RGB, [size, size, 3]."""
    import resvg_py
    from dicebear import Avatar

    style = STYLES[style_name]
    centre_x, centre_y, width = style.window
    fine = SUPERSAMPLING * size
    canvas = math.ceil(fine / width)
    svg = Avatar(_dicebear_style(style_name), dicebear_options(style, face)).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=canvas, height=canvas, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGB")

    pose = face.pose
    step = canvas * width / (fine * pose.scale)
    cos, sin = (f(math.radians(pose.degrees)) * step for f in (math.cos, math.sin))
    # output pixel -> drawing pixel: the shifted centre of the picture shows the centre of the window
    middle_x, middle_y = fine * (0.5 + pose.shift_x), fine * (0.5 + pose.shift_y)
    matrix = (
        *(cos, sin, canvas * centre_x - cos * middle_x - sin * middle_y),
        *(-sin, cos, canvas * centre_y + sin * middle_x - cos * middle_y),
    )
    posed = drawing.transform(
        (fine, fine),
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BICUBIC,
        fillcolor=face.parts["background"],
    ).reduce(SUPERSAMPLING)
    pixels = np.asarray(posed, dtype=np.float32) * pose.brightness
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def write(folder: str, style_name: str, size: int, faces: list[tuple[str, Face]]) -> int:
    """Render `faces`, pairs of (relative path, face), as PNG files under `folder`; returns how many."""
    for path, face in faces:
        Image.fromarray(render(style_name, face, size)).save(f"{folder}/{path}")
    return len(faces)
