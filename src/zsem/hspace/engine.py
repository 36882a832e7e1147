"""The bottleneck h of a U-Net: read it and shift it, while a denoiser answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.guidance import Interval, Steered, limited, within
from zsem.diffusion.schedule import level_like
from zsem.values.direction import Shift
from zsem.values.prediction import Condition, Prediction


@runtime_checkable
class Bottleneck(Protocol):
    """A network in two halves that meet in h. `up(*down(x_t, t, cond))` is what the whole answers.

    Our U-Nets are such (`model.unet`), and `zsem.interop.unet2d` makes one of diffusers' UNet2DModel.
    """

    def down(self, x_t: Tensor, t: Tensor, cond: Condition, /) -> tuple[Tensor, Any]:
        """From x_t [b, c, h, w], t [b] and a condition to h [b, c2, h2, w2] and what `up` needs beside it."""
        ...

    def up(self, h: Tensor, context: Any, /) -> Tensor:
        """From h and the rest to the prediction, [b, c3, h, w]: eps, v or x0, with a learned variance after it."""
        ...


def halves(denoise: NetworkDenoiser) -> Bottleneck:
    """The network of a denoiser, as two halves. Raises ValueError where it has none."""
    if not isinstance(denoise.network, Bottleneck):
        raise ValueError(f"{type(denoise.network).__name__} has no `down` and `up`, so no bottleneck to edit")
    return denoise.network


@dataclass(frozen=True)
class Shifts:
    """A sum of shifts, each times an amount: as a `Shift`.

    terms: amounts and shifts; those with an amount of 0 are not evaluated.
    """

    terms: Sequence[tuple[float | int, Shift]]

    def __call__(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """What is added to h at timesteps t; every term is told h as it was."""
        total = torch.zeros_like(h)
        for amount, shift in self.terms:
            if amount != 0:
                total = total + amount * shift(h, t)
        return total


def predictions(
    denoise: NetworkDenoiser,
    x_t: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    cond: Condition,
    shift: Shift,
    *,
    plain: bool = True,
) -> tuple[Prediction | None, Prediction]:
    """What a denoiser answers, and what it answers with `shift` added to h; one prediction twice where nothing is.

    One evaluation of the encoder and one of the decoder; a second of the decoder where h is shifted.
    plain: whether the first is wanted; else it is None where h is shifted, without an evaluation of its own.
    """
    network = halves(denoise)
    h, context = network.down(x_t.float(), t.float(), cond)
    dh = shift(h, t)
    if not bool(dh.any()):
        same = denoise.answer(network.up(h, context), x_t, t)
        return same, same
    first = denoise.answer(network.up(h, context), x_t, t) if plain else None
    return first, denoise.answer(network.up(h + dh, context), x_t, t)


class Edited(Steered):
    """A denoiser whose eps is eps(h) + gain (eps(h + shift) - eps(h)): the symmetric edit in h.

    A consistent prediction, whatever the network predicts, so that every solver, codec and guidance goes on from it as
    from any denoiser, and the strength does not depend on the number of steps (Asyrp's published rule: `hspace.asyrp`).
    Bind its condition (`bind`), or hand it to `Extrapolate` or a model's `sample` in place of `model.denoiser`.
    """

    def __init__(
        self,
        denoise: NetworkDenoiser,
        shift: Shift,
        gain: float | int = 1.0,
        *,
        interval: Interval | None = None,
        alike: bool = True,
    ) -> None:
        """Where nothing is edited (a gain of 0, outside the interval, a shift of 0) the answer is the plain one.

        denoise: of a network that is a `Bottleneck`.
        shift: what is added to h, e.g. a `Direction` in h, `Shifts`, or a network.
        gain: how far to extrapolate from the plain to the shifted prediction; 1 = the shifted one, without the plain.
        interval: first and last timestep, both inclusive, at which it acts: (t_edit, T - 1) in Asyrp.
        alike: whether the shift is one function for all images; False where it holds something for each image of the
            batch, so that guidance does not double it.
        Raises ValueError where the network has no bottleneck.
        """
        super().__init__(denoise)
        halves(denoise)
        self._network_denoiser = denoise
        self._shift = shift
        self._gain = gain
        self._interval = interval
        self._alike = alike

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """One evaluation of the network; a second one of its decoder where h is edited and the gain is not 1."""
        acts = torch.ones_like(t, dtype=torch.bool) if self._interval is None else within(self._interval, t)
        if self._gain == 0 or not bool(acts.any()):
            return self._network_denoiser(x_t, t, cond)
        needed = self._gain != 1 or not bool(acts.all())
        plain, shifted = predictions(self._network_denoiser, x_t, t, cond, self._shift, plain=needed)
        if plain is None or plain is shifted:
            return shifted
        alpha, sigma = level_like(self.schedule, t, x_t)
        change = limited(self._gain * (shifted.eps - plain.eps), self._interval, t)
        return replace(plain.steer(change, sigma / alpha), var_fraction=_chosen(acts, shifted, plain))


class Recorder(Steered):
    """A denoiser that keeps the h of every evaluation, for one batch on one walk.

    h: by timestep, [b, c, h, w], as of the first evaluation there; on the CPU.
    """

    def __init__(self, denoise: NetworkDenoiser, *, pooled: bool = False) -> None:
        """pooled: keep the mean over the map, [b, c, 1, 1]. Raises ValueError where there is no bottleneck."""
        super().__init__(denoise)
        halves(denoise)
        self._network_denoiser = denoise
        self._pooled = pooled
        self.h: dict[float, Float[Tensor, "b c h w"]] = {}

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """One evaluation of the network."""
        network, denoise = halves(self._network_denoiser), self._network_denoiser
        h, context = network.down(x_t.float(), t.float(), cond)
        kept = h.mean(dim=(2, 3), keepdim=True) if self._pooled else h
        self.h.setdefault(float(t[0]), kept.detach().cpu())
        return denoise.answer(network.up(h, context), x_t, t)


def _chosen(acts: Bool[Tensor, " b"], shifted: Prediction, plain: Prediction) -> Tensor | None:
    """The learned variance, of the shifted network where it acts."""
    if shifted.var_fraction is None or plain.var_fraction is None:
        return None
    return torch.where(acts[:, None, None, None], shifted.var_fraction, plain.var_fraction)
