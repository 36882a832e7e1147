"""Pixels at the edges: float [-1, 1] <-> uint8 <-> Pillow, small labelled picture grids, picture files of any depth."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zsem.data.shaping import Depth, depth_of
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

GAP = 2  # white pixels around every picture of a grid
FONT_SIZE = 12


def to_uint8(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Round images from [-1, 1] to 0..255, clipping what lies outside; the inverse of `from_uint8`."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: UInt8[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Images as the networks see them: pixels / 127.5 - 1, float32 in [-1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_pil(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """A Pillow image: grey where c is 1, RGB where c is 3. ValueError for other numbers of channels."""
    array = pixels.detach().cpu().permute(1, 2, 0).numpy()
    if array.shape[2] == 1:
        array = array[:, :, 0]
    elif array.shape[2] != 3:
        raise ValueError(f"a picture has 1 or 3 channels, not {array.shape[2]}")
    return Image.fromarray(np.ascontiguousarray(array))


def displayable(pixels: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c2 h w"]:
    """Images of any number of channels as grey or RGB: of several channels the first three, or the first of two."""
    return pixels[:, : 3 if pixels.shape[1] >= 3 else 1]


def from_pil(image: Image.Image) -> UInt8[Tensor, "c h w"]:
    """The pixels of a grey ("L", c = 1) or RGB (c = 3) Pillow image. ValueError for other modes."""
    if image.mode not in {"L", "RGB"}:
        raise ValueError(f"pixels are taken from grey or RGB images, not from mode {image.mode}")
    array = np.array(image)
    if array.ndim == 2:
        array = array[:, :, None]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def grid(*rows: UInt8[Tensor, "_ _ _ _"], captions: Sequence[str] | None = None, scale: int = 1) -> Image.Image:
    """A white sheet with one row of pictures per argument, as an RGB Pillow image.

    rows: [n, c, h, w], of one size; grey and RGB rows may be mixed, and rows may differ in length.
    captions: one short text per row, written to its left.
    scale: whole-number enlargement, without smoothing, so that single pixels can be seen.

    ValueError: no rows, pictures of several sizes, or another number of captions than rows.
    """
    if not rows or len({row.shape[-2:] for row in rows}) != 1:
        raise ValueError("a grid needs at least one row, and pictures of one size")
    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"{len(rows)} rows need {len(rows)} captions, not {len(captions)}")
    height, width = (scale * side for side in rows[0].shape[-2:])
    font = ImageFont.load_default(FONT_SIZE)
    margin = max((int(font.getlength(text)) + 3 * GAP for text in captions or ()), default=0)
    line = max(height, FONT_SIZE + GAP if captions else 0) + GAP
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (margin + columns * (width + GAP) + GAP, len(rows) * line + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = GAP + number * line
        if captions:
            pen.text((GAP, top + height // 2), captions[number], fill="black", font=font, anchor="lm")
        for column, pixels in enumerate(row):
            picture = to_pil(pixels).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + GAP + column * (width + GAP), top))
    return sheet


def save_png(image: Image.Image | UInt8[Tensor, "c h w"], path: str | Path) -> Path:
    """Write a PNG file that appears whole or not at all; missing folders are made. Returns the path.

    ZsemError: the file cannot be written (full disk, no permission).
    """
    path, file = Path(path), io.BytesIO()
    (image if isinstance(image, Image.Image) else to_pil(image)).save(file, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())
    return path


def picture_suffix(depth: Depth, channels: int) -> str:
    """The kind of file that holds such an image without loss: ".png", ".tiff" or ".npy".

    PNG for 8 bits and for grey of 16; TIFF for 16-bit colour and floats; numpy's own for other channels, and in place
    of a TIFF file that only tifffile can write, where that is not installed.
    """
    if (depth, channels) in {("uint8", 1), ("uint8", 3), ("uint16", 1)}:
        return ".png"
    if (depth, channels) == ("float32", 1):
        return ".tiff"
    return ".tiff" if depth != "uint8" and channels in {1, 3} and importlib.util.find_spec("tifffile") else ".npy"


def save_pixels(pixels: Shaped[Tensor, "c h w"], path: str | Path) -> Path:
    """Write one image in its own depth, whole or not at all, as `path` with the suffix of `picture_suffix`.

    Missing folders are made. Returns the path. A npy file holds [h, w, c].
    ZsemError: the file cannot be written (full disk, no permission).
    """
    array = np.ascontiguousarray(pixels.detach().cpu().permute(1, 2, 0).numpy())
    depth, channels = depth_of(array), array.shape[2]
    suffix = picture_suffix(depth, channels)
    # not with_suffix, which would take the end of a name such as scan.2
    path = Path(path).with_name(Path(path).name + suffix)
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, array, allow_pickle=False)
    elif suffix == ".png" or (depth, channels) == ("float32", 1):
        Image.fromarray(array[:, :, 0] if channels == 1 else array).save(file, format=suffix[1:])
    else:
        import tifffile

        image = array[:, :, 0] if channels == 1 else array
        tifffile.imwrite(file, image, photometric="minisblack" if channels == 1 else "rgb")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZsemError(f"{path.parent} could not be made: {error.strerror or error}") from error
    write_whole(path, file.getvalue())
    return path
