"""Directions from Jacobians of the network: what changes images most at one noise level, without a label.

Three settings of one engine (`hspace.singular`): d eps / d h (Haas et al., 2303.11073, section 4.4), directions in h;
d h / d x_t (Park et al., 2307.12868, section 3.2), directions in x_t that change h most; and d x0 / d x_t within a
mask, in the null space of the rest (LOCO Edit, 2409.02374, section 3.3), local directions in x_t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.hspace.editable import Editable, condition_of, invert
from zsem.hspace.engine import halves
from zsem.hspace.singular import (
    TOLERANCE,
    LinearMap,
    Triplets,
    jacobian_of,
    top_triplets,
    within_null_space,
)
from zsem.models.diffusion import Classes
from zsem.models.imaging import STEPS, Progress, evaluation
from zsem.models.inputs import Images
from zsem.values.codes import Codes
from zsem.values.direction import Direction
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

Setting = Literal["eps_of_h", "h_of_x", "x0_of_x"]
"""What is differentiated, and with respect to what."""
REST = 5
"""Singular vectors of the rest of the image that a local direction leaves out (LOCO Edit, section 4)."""


def to_level(
    model: Editable,
    images: Images,
    timestep: int,
    *,
    classes: Classes = None,
    steps: int = STEPS,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Codes:
    """Codes of images whose noise ends at a timestep: their x_T is x_t there, and they decode to the images exactly.

    steps: noise levels up to the timestep. Other arguments as for `encode` and `invert`.
    Raises ZsemError where there are not so many levels, and as these do.
    """
    told: dict[str, Any] = {
        "grid": model.grid(steps, noisiest=timestep), "batch_size": batch_size, "progress": progress,
    }  # fmt: skip
    return invert(model, images, classes=classes, **told)


def directions(
    model: Editable,
    codes: Codes,
    number: int,
    setting: Setting = "eps_of_h",
    *,
    classes: Classes = None,
    mask: Float[Tensor, "h w"] | None = None,
    rest: int | None = None,
    tolerance: float = TOLERANCE,
    iterations: int = 50,
    seed: int = 0,
) -> tuple[list[Direction], Triplets]:
    """The directions that change most of what `setting` names, first the most, and their singular values.

    A direction has length 1, the setting's timestep, and is one for all images: where there are several, the Jacobians
    are stacked, and sigma is the root mean square over images. With one image they are that image's, as published.
    codes: of images at one noise level (`to_level`), or x_T of any codes with levels.
    mask: 0..1, where images are to change, cropped as images are; not for "h_of_x".
    rest: how many singular vectors of the image outside the mask are left out, so that it changes little; by default
        REST for "x0_of_x" with a mask, else none. Unlike LOCO's code, which takes them out of the vector that it has
        found, the largest change is sought among what is left.
    tolerance, iterations, seed: see `top_triplets`.
    Raises ZsemError for codes without noise, a mask of another size or where none is of use, or too many directions.
    """
    if codes.noise is None or not codes.timesteps:
        raise ZsemError("directions of a Jacobian belong to a noise level: invert the images to one first")
    if mask is not None and setting == "h_of_x":
        raise ZsemError("a mask is of images, and this is what changes h: leave it out, or choose x0_of_x")
    if mask is not None and tuple(mask.shape) != model.image_shape[1:]:
        raise ZsemError(f"a mask must be {list(model.image_shape[1:])}, not {list(mask.shape)}")
    rest = (REST if setting == "x0_of_x" and mask is not None else 0) if rest is None else rest
    sought: dict[str, Any] = {"tolerance": tolerance, "iterations": iterations, "seed": seed}
    cond = condition_of(model, codes, classes)
    with evaluation(model):
        linear = _jacobian(model, codes, cond, setting, mask)
        if rest and mask is not None:
            outside = top_triplets(_jacobian(model, codes, cond, setting, 1 - mask), rest, **sought)
            linear = within_null_space(linear, outside.right)
        try:
            found = top_triplets(linear, number, **sought)
        except ValueError as error:
            raise ZsemError(f"{error}: ask for fewer directions") from None
    space = "h" if setting == "eps_of_h" else "x"
    return [
        Direction(
            space=space, vector=vector[None].float(), timesteps=codes.timesteps[:1], unit=f"length in {space}",
            name=f"{setting}_{j}", model=model.stamp,
        )
        for j, vector in enumerate(found.right)
    ], found  # fmt: skip


def moved(codes: Codes, terms: Sequence[tuple[float | int, Direction]]) -> Codes:
    """Codes at a noise level, x_t moved there once (LOCO Edit, algorithm 1): decode them for the edited images.

    codes: of `to_level`. terms: amounts and directions in x at the timestep of the codes. Amounts of 0 change nothing.
    Raises ZsemError for directions of another model, space, timestep or shape.
    """
    noise = codes.noise
    if noise is None:
        raise ZsemError("directions in x move noisy images: invert the images to their timestep first")
    x_t = noise.x_T
    for amount, direction in terms:
        if direction.space != "x" or direction.model != codes.model:
            raise ZsemError(f"the direction {direction.name!r} is none in x_t of model {codes.model}")
        if direction.timesteps != codes.timesteps[:1]:
            raise ZsemError(
                f"the direction {direction.name!r} is of timestep {direction.timesteps[0]:g}: "
                "invert the images to that, and edit with directions of one timestep"
            )
        if direction.vector.shape[1:] != x_t.shape[1:]:
            raise ZsemError(f"the direction {direction.name!r} is for images of {list(direction.vector.shape[1:])}")
        if amount != 0:
            x_t = x_t + amount * direction.vector.to(x_t)
    return replace(codes, noise=replace(noise, x_T=x_t))


def _jacobian(
    model: Editable, codes: Codes, cond: Condition, setting: Setting, mask: Float[Tensor, "h w"] | None
) -> LinearMap:
    """The Jacobian with respect to one shift of all images, over the square root of their number."""
    assert codes.noise is not None
    network, share = halves(model.denoiser), len(codes) ** -0.5
    x_t = codes.noise.x_T.to(model.device, torch.float32)
    t = torch.full((len(x_t),), codes.timesteps[0], device=model.device)
    seen: Tensor | float = share
    if mask is not None:
        seen = share * model.pad(mask[None, None].to(x_t))
    f: Callable[[Tensor], Tensor]
    if setting == "eps_of_h":
        h, context = network.down(x_t, t, cond)
        at = torch.zeros_like(h[0])
        f = lambda dh: seen * model.denoiser.answer(network.up(h + dh, context), x_t, t).eps  # noqa: E731
    elif setting == "h_of_x":
        at = torch.zeros_like(x_t[0])
        f = lambda dx: seen * network.down(x_t + dx, t, cond)[0]  # noqa: E731
    else:
        at = torch.zeros_like(x_t[0])
        f = lambda dx: seen * model.denoiser(x_t + dx, t, cond).x0  # noqa: E731
    return jacobian_of(f, at)
