"""Edits and interpolation: from codes and new codes to pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from zsem.data.images import load_image
from zsem.data.shaping import centre_box
from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Extrapolate, Interval
from zsem.diffusion.masking import Comparison, Masked
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import Progress
from zsem.values.codes import Codes, Noise, between
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition

SCALE, RESCALE = 1.0, 0.5
"""Defaults of an edit, chosen with experiments/edit_defaults.py: a code that is taken all the way changes the image
more truly than one that is taken half-way and extrapolated, which needs twice the evaluations."""
INTERVAL: Interval = (0.1, 1.0)
"""Where it is extrapolated, as shares of the timesteps: nearer the image that adds error, hardly any change, and
evaluations."""

COMPARED: Interval = (0.02, 0.3)
"""Where the automatic mask compares predictions, as shares of the model's timesteps: with more noise differences are
less in their place, with less there are hardly any."""
SMOOTHED = 1 / 32
"""Standard deviation of the smoothing of the compared predictions, as a share of the shorter side."""
SHARE = 0.3
"""The automatic mask is where the smoothed difference reaches this share of its maximum over the image."""
DILATED = 1 / 16
"""How far the mask is widened all round, as a share of the shorter side; its soft edge lies within."""

Mask = Float[Tensor, "*own h w"] | str | Path
"""Where images may change: one mask for all, [h, w], or one for each, [n, h, w]; an image file; or "auto"."""


def edit(
    model: DiffusionAutoencoder,
    codes: Codes,
    z_new: Float[Tensor, "n d"],
    *,
    scale: float | int = SCALE,
    rescale: float | int = RESCALE,
    interval: Interval | Literal["auto"] | None = "auto",
    keep_noise: float | int = 1.0,
    mask: Mask | None = None,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Decode new z with the images' own noise and delta guidance: float32, nominally in [-1, 1], not clipped.

    An image whose z is the old one is decoded as it was, to the bit, whatever the other arguments, without a second
    evaluation.

    codes: of the images, with noise. z_new: as the encoder gives them (not normalised).
    scale: eps is eps_old + scale (eps_new - eps_old); 1 = a plain decode of the new z.
    rescale: 0..1, how far the contrast of the extrapolated x0 is pulled back to that of the plain one.
    interval: first and last timestep, both inclusive, at which it is extrapolated; None = all; "auto" = all but the
        first tenth (INTERVAL).
    keep_noise: 0..1, weight of the image's own x_T in a mixture with fresh noise that keeps its variance (1 = x_T as it
        is); carry and offsets are scaled along with it.
    mask: where the image may change, 0..1, [h, w] for all images or [n, h, w]; an image file, cropped and resized as
        the images are; or "auto", see `find_mask`. Where it is 0 the result is the original, exactly.
    seed, first: of the fresh noise, and the first image's position; each image's depends on both alone.
    Raises ZsemError for codes without noise, masks that do not fit, and an interval back to front.
    """
    noise, z_new = _noise(codes), z_new.to(codes.z)
    if not 0 <= keep_noise <= 1:
        raise ZsemError(f"keep_noise must lie in 0..1, not {keep_noise:g}")
    limits = timesteps_of(model, INTERVAL) if interval == "auto" else interval
    if limits is not None and limits[0] > limits[1]:
        raise ZsemError(f"interval is the first and the last timestep: {limits[0]:g} comes after {limits[1]:g}")
    masks = None if mask is None else masks_for(model, codes, z_new, mask, batch_size=batch_size)
    if keep_noise < 1:
        fresh = model.fresh_noise(len(codes), seed=seed, first=first).x_T
        share = 1.0 if masks is None else model.pad(masks[:, None])
        noise = renewed(noise, fresh, 1 - share * (1 - keep_noise))
    target = replace(codes, z=z_new, noise=noise)
    changed = (z_new != codes.z).any(dim=1)
    out = torch.empty(len(codes), *model.image_shape)
    if not changed.all():
        out[~changed] = model.decode(codes[~changed], batch_size=batch_size)
    if changed.any():
        guidance = {"scale": scale, "rescale": rescale, "interval": limits}
        out[changed] = _decode(
            model, codes[changed], target[changed], None if masks is None else masks[changed], guidance,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
    return out


def _decode(
    model: DiffusionAutoencoder,
    codes: Codes,
    target: Codes,
    masks: Tensor | None,
    guidance: dict[str, Any],
    *,
    batch_size: int,
    progress: Progress | None,
) -> Float[Tensor, "n c h w"]:
    """Pixels of `target`, extrapolated from the z of `codes`, within the masks."""
    if masks is None:

        def alone(cond: Condition, rows: slice) -> BoundDenoiser:
            return Extrapolate(model.denoiser, Condition(z=codes.z[rows].to(model.device)), cond, **guidance)

        return model.decode(target, batch_size=batch_size, steer=alone, progress=progress)
    padded = model.pad(masks[:, None])

    def beside(cond: Condition, rows: slice) -> BoundDenoiser:
        assert cond.z is not None
        old, new = Condition(z=cond.z[0::2]), Condition(z=cond.z[1::2])
        part = padded[rows.start // 2 : rows.stop // 2]
        return Masked(bind(model.denoiser, old), Extrapolate(model.denoiser, old, new, **guidance), part)

    order = torch.arange(2 * len(codes)).view(2, -1).T.flatten()  # each image's source, then its target
    images = None if progress is None else lambda done, total: progress(done // 2, total // 2)
    pairs = Codes.cat([codes, target])[order]
    return model.decode(pairs, batch_size=2 * batch_size, steer=beside, progress=images)[1::2]


def renewed(noise: Noise, fresh: Float[Tensor, "n c h w"], keep: float | Float[Tensor, "n 1 h w"]) -> Noise:
    """A mixture of an image's noise with fresh noise that keeps its variance: keep x_T + sqrt(1 - keep^2) fresh.

    keep: 0..1, per image and pixel or one for all. What the codec stores beside x_T belongs to x_T and is scaled along
    with it: measured, that gives less error than leaving it out.
    """
    keep = torch.as_tensor(keep)
    return Noise(
        x_T=keep * noise.x_T + (1 - keep**2).sqrt() * fresh,
        carry=None if noise.carry is None else keep * noise.carry,
        offsets=None if noise.offsets is None else (keep[:, None] if keep.ndim else keep) * noise.offsets,
    )


def masks_for(
    model: DiffusionAutoencoder, codes: Codes, z_new: Float[Tensor, "n d"], mask: Mask, *, batch_size: int = 16
) -> Float[Tensor, "n h w"]:
    """Masks of any kind, see `edit`, as one for each image. ZsemError: of another size, or not in 0..1."""
    if isinstance(mask, str) and mask == "auto":
        return find_mask(model, codes, z_new, batch_size=batch_size)
    size = model.image_shape[1:]
    if isinstance(mask, (str, Path)):
        mask = read_mask(mask, size)
    if mask.shape[-2:] != size or mask.shape[:-2] not in {(), (1,), (len(codes),)}:
        raise ZsemError(
            f"a mask must be {list(size)}, or {[len(codes), *size]} for each image its own, not {list(mask.shape)}"
        )
    if not 0 <= float(mask.min()) <= float(mask.max()) <= 1:
        raise ZsemError(f"a mask must lie in 0..1, this one has {float(mask.min()):g} to {float(mask.max()):g}")
    return mask.float().expand(len(codes), *size)


def read_mask(path: str | Path, size: tuple[int, int]) -> Float[Tensor, "h w"]:
    """A mask from an image file, 0..1 for black to white, cropped at the centre as images are.

    Resized by means over areas, so that it is 0 only where all of the file is. ZsemError: it cannot be read.
    """
    pixels = load_image(path, None, 1, depth=None, background="black")[0]
    left, top, right, bottom = centre_box(pixels.shape[0], pixels.shape[1], size)
    white = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(pixels.dtype, 1.0)
    mask = (pixels[top:bottom, left:right].float() / white).clamp(0, 1)
    return F.interpolate(mask[None, None], size, mode="area")[0, 0]


def find_mask(
    model: DiffusionAutoencoder,
    codes: Codes,
    z_new: Float[Tensor, "n d"],
    *,
    share: float | int = SHARE,
    interval: Interval | Literal["auto"] = "auto",
    batch_size: int = 16,
) -> Float[Tensor, "n h w"]:
    """Where an edit wants to change an image: 0 outside, 1 inside, with a soft edge within (compare 2210.11427).

    The image is decoded once with its old z, and on the way the predictions of x0 under both z are compared, at the
    timesteps of `interval` ("auto" = COMPARED), on the image's own trajectory. Their difference is smoothed, cut at
    `share` of its maximum, and widened. An image whose z is the old one has a mask of zeros, without any evaluation.

    Costs one decode, and a second evaluation at the levels within the interval. Raises ZsemError for codes without
    noise, and where no level of their grid is within the interval.
    """
    _noise(codes)
    masks = torch.zeros(len(codes), *model.image_shape[1:])
    changed = (z_new.to(codes.z) != codes.z).any(dim=1)
    if not changed.any():
        return masks
    goals, walks = z_new[changed].to(model.device), []
    limits = timesteps_of(model, COMPARED) if interval == "auto" else interval

    def compare(cond: Condition, rows: slice) -> BoundDenoiser:
        walks.append(Comparison(model.denoiser, cond, Condition(z=goals[rows]), limits))
        return walks[-1]

    model.decode(codes[changed], batch_size=batch_size, steer=compare)
    totals = [walk.total for walk in walks if walk.total is not None]
    if not totals:
        raise ZsemError(
            f"the codes have no level at timesteps {limits[0]:g} to {limits[1]:g}, so that no mask can be found: "
            "encode with more steps"
        )
    total = model.crop(torch.cat(totals)[:, None])[:, 0].cpu().double().numpy()
    masks[changed] = torch.from_numpy(np.stack([_region(one, share) for one in total])).float()
    return masks


def timesteps_of(model: DiffusionAutoencoder, shares: Interval) -> Interval:
    """An interval of timesteps from shares 0..1 of those that the model was trained with."""
    return shares[0] * model.schedule.timesteps, shares[1] * model.schedule.timesteps


def _region(difference: Float[np.ndarray, "h w"], share: float) -> Float[np.ndarray, "h w"]:
    """The mask of one image."""
    side = min(difference.shape)
    smooth = ndimage.gaussian_filter(difference, SMOOTHED * side)
    if not smooth.any():
        return np.zeros_like(smooth)
    inside = smooth >= share * smooth.max()
    distance = ndimage.distance_transform_edt(~inside)
    return (1 - distance / (DILATED * side)).clip(0, 1)


def interpolate(
    model: DiffusionAutoencoder, a: Codes, b: Codes, frames: int, *, batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:  # fmt: skip
    """A morph from one image to another, ends included: z on a straight line, x_T on a great circle (DiffAE, sec. 5.1).

    a, b: codes of one image each, of one codec and grid, with noise. frames: 2 or more.
    Returns float32 [frames, c, h, w], not clipped; with the exact codec the ends are the two images.
    Raises ZsemError for fewer frames, and codes that do not fit together.
    """
    if frames < 2:
        raise ZsemError(f"a morph has 2 frames or more, not {frames}")
    share = torch.linspace(0, 1, frames)
    return model.decode(between(a, b, share), batch_size=batch_size, progress=progress)


def _noise(codes: Codes) -> Noise:
    if codes.noise is None:
        raise ZsemError("an edit needs the noise of the images: encode them with noise")
    return codes.noise
