"""Content of a reference image put into the bottleneck of another (InjectFusion / DiffStyle, 2303.15403)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Interval
from zsem.hspace.collect import Collected
from zsem.hspace.editable import Editable, decode
from zsem.hspace.engine import Edited
from zsem.models.diffusion import Classes
from zsem.models.imaging import Progress
from zsem.values.codes import Codes, slerp
from zsem.values.direction import Shift
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition

GAMMA = 0.3
"""How far h is turned towards the reference's (2303.15403, section 4; .4 for paintings)."""


class Injection:
    """A `Shift` that turns h towards a reference's and keeps its length: Slerp(h, h_ref |h| / |h_ref|; gamma).

    The length of h goes with that of the skip connections, on which the quality depends (section 3.2). It holds the
    reference of every image of one batch, so that `Edited` must be told alike=False.
    """

    def __init__(
        self,
        reference: Float[Tensor, "b s c h w"],
        timesteps: tuple[float, ...],
        gamma: float | int = GAMMA,
        *,
        region: Bool[Tensor, "h w"] | None = None,
    ) -> None:
        """reference: its h at every timestep, for each image of the batch, or one for all (b = 1).

        timesteps: of the reference; elsewhere the nearest one is taken.
        gamma: 0 (nothing) .. 1 (the direction of the reference's h).
        region: where in the map (section 3.3); the length is kept within it. All of it where None.
        Raises ValueError for a gamma outside 0..1 or shapes that do not go together.
        """
        if not 0 <= gamma <= 1 or reference.shape[1] != len(timesteps):
            raise ValueError(f"gamma lies in 0..1 and every timestep has an h, not {gamma} and {reference.shape[1]}")
        self._reference = reference
        self._timesteps = torch.tensor(timesteps, dtype=torch.float64)
        self._gamma = gamma
        self._region = region

    def __call__(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """What is added to h. Raises ValueError for another number of images than there are references."""
        if len(self._reference) not in {1, len(h)}:
            raise ValueError(f"{len(h)} images and {len(self._reference)} references do not go together")
        near = (t.cpu().double()[:, None] - self._timesteps).abs().argmin(dim=1)
        rows = torch.arange(len(h)) if len(self._reference) > 1 else torch.zeros(len(h), dtype=torch.long)
        other = self._reference[rows, near].to(h)
        region = torch.ones(h.shape[2:], dtype=torch.bool) if self._region is None else self._region
        region = region.to(h.device)
        turned = turn(h[..., region], other[..., region], self._gamma)
        change = torch.zeros_like(h)
        change[..., region] = turned - h[..., region]
        return change


def turn(h: Float[Tensor, "b ..."], other: Float[Tensor, "b ..."], gamma: float | int) -> Float[Tensor, "b ..."]:
    """h turned towards another one by the share gamma of the angle between them, as long as it was."""
    lengths = [x.flatten(1).double().norm(dim=1) for x in (h, other)]
    factor = (lengths[0] / lengths[1].clamp(min=torch.finfo(torch.float64).tiny)).view(-1, *(1,) * (h.ndim - 1))
    share = torch.full((len(h),), float(gamma), dtype=torch.float64, device=h.device)
    return slerp(h.double(), other.double() * factor, share).to(h)


def region_of(model: Editable, mask: Float[Tensor, "h w"]) -> Bool[Tensor, "h2 w2"]:
    """Where in the bottleneck's map a mask of the image lies: where it covers half of what a place sees of it, or more.

    Raises ZsemError where that is nowhere, and for a mask of another size.
    """
    if tuple(mask.shape) != model.image_shape[1:]:
        raise ZsemError(f"a mask must be {list(model.image_shape[1:])}, not {list(mask.shape)}")
    region = F.interpolate(model.pad(mask[None, None].float()), model.bottleneck_shape[1:], mode="area")[0, 0] >= 0.5
    if not region.any():
        height, width = model.bottleneck_shape[1:]
        raise ZsemError(f"the mask covers no place of the bottleneck, which is {height} x {width}: give a larger one")
    return region


def inject(
    model: Editable,
    codes: Codes,
    reference: Collected,
    *,
    gamma: float | int = GAMMA,
    region: Bool[Tensor, "h w"] | None = None,
    gain: float | int = 1.0,
    interval: Interval | None = None,
    classes: Classes = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Float[Tensor, "n c h w"]:
    """Images decoded with the content of reference images: float32, nominally in [-1, 1], not clipped.

    codes: of the images that give all else, with noise. reference: h of one image for all of them, or of one each, at
        the levels of the codes (`collect` with as many steps).
    gamma, region: see `Injection`. gain, interval, classes: as for `hspace.edits.symmetric`.
    With a gamma or gain of 0 the images are what `model.decode` makes of the codes, to the bit.
    Raises ZsemError for another number of references, or such of another model or that were pooled.
    """
    if reference.model != model.stamp or tuple(reference.h.shape[2:]) != model.bottleneck_shape:
        raise ZsemError("the reference's h is that of another model, or was pooled: collect it again")
    if len(reference) not in {1, len(codes)}:
        raise ZsemError(f"give one reference for all images or one each, not {len(reference)} for {len(codes)}")

    def shift(rows: slice) -> Shift:
        own = slice(None) if len(reference) == 1 else rows
        h = torch.from_numpy(np.asarray(reference.h[own], dtype=np.float32))
        return Injection(h, reference.timesteps, gamma, region=region)

    def steer(cond: Condition, rows: slice) -> BoundDenoiser:
        strength = gain if gamma != 0 else 0
        return bind(Edited(model.denoiser, shift(rows), strength, interval=interval, alike=False), cond)

    return decode(model, codes, classes=classes, batch_size=batch_size, steer=steer, progress=progress)
