"""Edits of small images put back into the photos that they were cut from."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from zsem.data.intensity import EIGHT_BITS, Intensity
from zsem.data.shaping import Box


def place(
    photo: Shaped[Tensor, "c h w"],
    box: Box,
    edited: Float[Tensor, "c2 h2 w2"],
    reconstruction: Float[Tensor, "c2 h2 w2"],
    *,
    intensity: Intensity = EIGHT_BITS,
    mask: Float[Tensor, "h3 w3"] | None = None,
) -> Shaped[Tensor, "c h w"]:
    """photo + upsample(edited - reconstruction) within `box`: the photo keeps its size, its depth and its details.

    The photo is what it was, to the bit, outside the box, wherever the two images agree with their neighbourhood, and
    where the mask is 0.

    photo: stored values, of the depth of `intensity`.
    box: the part of it that the model saw, see `zsem.data.shaping.centre_box`.
    edited, reconstruction: what the model made of that part with the edit and without, nominally in [-1, 1], of any
        size; of as many channels as the photo, or one for all of them.
    intensity: how stored values became -1 .. 1.
    mask: 0 where nothing may change, stretched over the box without smoothing; at other values all of the change.
    """
    left, top, right, bottom = box
    size = (bottom - top, right - left)
    half = (intensity.high - intensity.low) / 2
    difference = (edited.double() - reconstruction.double()).float() * half
    # a cubic keeps edges sharper than a straight line, and reaches two small pixels far
    change = F.interpolate(difference[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    if mask is not None:
        inside = F.interpolate((mask > 0).float()[None, None], size, mode="nearest-exact")[0]
        change = change * inside
    out = photo.clone()
    part = photo[:, top:bottom, left:right]
    out[:, top:bottom, left:right] = _stored(part.float() + change, photo.dtype)
    return out


def _stored(values: Float[Tensor, "c h w"], dtype: torch.dtype) -> Shaped[Tensor, "c h w"]:
    if dtype.is_floating_point:
        return values.to(dtype)
    limits = np.iinfo(str(dtype).removeprefix("torch."))
    return values.round().clamp(limits.min, limits.max).to(dtype)
