"""What shifts of h are like: strength, homogeneity, robustness, consistency, combination (Asyrp, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.guidance import Steered, idle
from zsem.diffusion.schedule import level_like
from zsem.diffusion.solvers import SOLVERS, last
from zsem.evaluation.bottleneck.workshop import Faces, Workshop, as_long, difference, learned, mean_shift, shift_at
from zsem.evaluation.flipping import SHOWN, Flipping
from zsem.hspace.asyrp import scaled_as_published
from zsem.hspace.editable import condition_of, decode
from zsem.hspace.edits import asymmetric, gain_of, with_gain
from zsem.hspace.engine import Edited, Shifts, predictions
from zsem.metrics.editing import monotonicity, squares
from zsem.metrics.intervals import wilson
from zsem.models.imaging import evaluation
from zsem.values import draws
from zsem.values.direction import Direction, Shift
from zsem.values.prediction import BoundDenoiser, Condition, Prediction

STRENGTHS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""In units of the amount that the study has chosen."""
CONSISTENCY = "consistency over the number of steps"
SYMMETRIC, PUBLISHED, TRAINED = "symmetric, UniPC-2", "asymmetric, scaled as published", "f_t, symmetric, UniPC-2"
"""The processes that are compared there."""
SOLVER = "unipc"
"""Of the symmetric ones; its corrector brings ten steps nearer to many."""
LEAST_CHANGE = 0.05
"""Of a mean logit: less is nothing to compare with."""
RANDOM_DRAW = 6
COMPARED = 16
"""Training images whose f_t is compared."""


@dataclass(frozen=True, kw_only=True)
class Property:
    """One property of one attribute's shift.

    name: of it, in words. meaning: what was done. figures: JSON-able. rows: the table that people read.
    pictures: rows of uint8 pictures by their caption.
    """

    name: str
    meaning: str
    figures: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]
    pictures: Mapping[str, UInt8[Tensor, "_ _ _ _"]]

    def about(self) -> dict[str, Any]:
        """All but the pictures, JSON-able."""
        return {
            "name": self.name, "meaning": self.meaning, "figures": dict(self.figures), "rows": list(self.rows),
            "pictures": list(self.pictures),
        }  # fmt: skip

    def tensors(self, number: int) -> dict[str, Tensor]:
        """The pictures of the property of that number."""
        return {f"{number} {place}": rows for place, rows in enumerate(self.pictures.values())}

    @staticmethod
    def of(known: Mapping[str, Any], tensors: Mapping[str, Tensor], number: int) -> Property:
        """What `about` and `tensors` say."""
        pictures = {caption: tensors[f"{number} {place}"] for place, caption in enumerate(known["pictures"])}
        return Property(**{**known, "pictures": pictures})


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Who judges properties, and what shifts are made from."""

    flipping: Flipping
    shop: Workshop
    consistent_steps: tuple[int, ...]

    def display(self, edited: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c2 h w"]:
        return self.shop.model.display(edited)

    def seen(self, edited: Float[Tensor, "n c h w"]) -> Float[Tensor, "n a"]:
        """The judge's calibrated probabilities."""
        return self.flipping.seen(self.display(edited))


@dataclass(frozen=True)
class Case:
    """One attribute's shift, images, and what the judge says of them."""

    setting: Setting
    name: str
    faces: Faces
    amounts: Mapping[str, float]

    @property
    def shop(self) -> Workshop:
        return self.setting.shop

    def logits(self, edited: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Of the attribute, not calibrated."""
        judge = self.setting.flipping.judge
        return judge.logits(self.setting.display(edited))[:, judge.config.attributes.index(self.name)].double()

    def shown(self, edited: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c2 h w"]:
        """The first of the pictures."""
        return self.setting.display(edited)[:SHOWN]

    def moved(self, *terms: tuple[float, Shift]) -> Float[Tensor, "n c h w"]:
        """The images with shifts of h."""
        return self.shop.moved(self.faces.codes, terms)


def properties(setting: Setting, name: str, faces: Faces, amounts: Mapping[str, float]) -> list[Property]:
    """All but the combination, of the mean difference, and of f_t where it was trained.

    faces: of the study's, which lack the attribute. amounts: that the study has chosen, by method.
    """
    case = Case(setting, name, faces, amounts)
    return [strength(case), homogeneity(case), robustness(case), consistency(case)]


def strength(case: Case) -> Property:
    """Whether more is more, to both sides."""
    shift, unit = difference(case.shop, case.name), case.amounts["mean"]
    images = [case.moved((share * unit, shift)) for share in STRENGTHS]
    logits = torch.stack([case.logits(image) for image in images], dim=1)
    n, mean = len(logits), logits.mean(dim=0)
    rising = float((logits.diff(dim=1) > 0).all(dim=1).double().mean())
    still = bool((mean == mean[0]).all())  # of what does not change there is no correlation
    line = 0.0 if still else float(np.corrcoef(STRENGTHS, mean.numpy())[0, 1] ** 2)
    ends = wilson(rising, n)
    ranks = monotonicity(logits)
    return Property(
        name="linearity and negative strength",
        meaning=f"The mean difference at {STRENGTHS[0]:g} to {STRENGTHS[-1]:g} times the chosen amount; a negative "
        f"strength takes away. The judge's logit rises at every step in {rising:.0%} of {n} images ({ends.low:.0%} to "
        f"{ends.high:.0%}); rank correlation {ranks:.2f}; R² of a line through the means {line:.2f}.",
        figures={
            "n": n, "strengths": list(STRENGTHS), "logits": mean.tolist(), "monotone": rising,
            "monotone_low": ends.low, "monotone_high": ends.high, "rank_correlation": ranks, "r2": line,
        },
        rows=[
            {"strength": "judge's mean logit", **{f"{s:g}": f"{v:.2f}" for s, v in zip(STRENGTHS, mean, strict=True)}},
        ],
        pictures={f"{s:g}": case.shown(image) for s, image in zip(STRENGTHS[::2], images[::2], strict=True)},
    )  # fmt: skip


def homogeneity(case: Case) -> Property:
    """Whether the shift of one image does the same to others."""
    shop, name, unit = case.shop, case.name, case.amounts["mean"]
    mean, h, labels = difference(shop, name), shop.collected.h, shop.labels(name)
    having, without = (np.flatnonzero(labels == kind) for kind in (1, 0))
    pair = Direction(
        space="h", vector=torch.from_numpy(np.asarray(h[having[0]] - h[without[0]], dtype=np.float32)),
        timesteps=mean.timesteps, unit="one difference", name=name, model=mean.model,
    )  # fmt: skip
    terms: dict[str, tuple[float, Shift]] = {
        "mean difference of all images": (unit, mean),
        "difference of one pair of images, as long": (unit, as_long(pair, mean)),
    }
    figures: dict[str, Any] = {"n": len(case.faces)}
    if "f_t" in case.amounts:
        shift, trained = learned(shop, name), case.amounts["f_t"]
        terms["f_t, each image's own"] = (trained, shift)
        carried = trained * gain_of(shift)
        terms["f_t of one training image"] = (carried, mean_shift(shop, shift, h[without[:1]], name))
        terms["f_t, mean over training images"] = (carried, mean_shift(shop, shift, h[without], name))
        figures["cosine"] = alike(shop, shift, h[without[:COMPARED]])
    plain = case.moved()
    before, pictures, rows = case.logits(plain), {"unedited": case.shown(plain)}, []
    for title, term in terms.items():
        edited = case.moved(term)
        change = case.logits(edited) - before
        figures[title] = {"change": float(change.mean()), "rising": float((change > 0).double().mean())}
        pictures[title] = case.shown(edited)
        rows.append({
            "shift": title, "change of the judge's logit": f"{float(change.mean()):+.2f}",
            "images in which it rises": f"{float((change > 0).double().mean()):.0%}", "n": str(len(change)),
        })  # fmt: skip
    cosine = f" Mean cosine between f_t of two images: {figures['cosine']:.2f}." if "cosine" in figures else ""
    return Property(
        name="homogeneity", figures=figures, rows=rows, pictures=pictures,
        meaning=f"The shift that belongs to one image, or to the mean of many, applied to other images.{cosine}",
    )  # fmt: skip


def alike(shop: Workshop, shift: Shift, h: Float[np.ndarray, "n s c h w"]) -> float:
    """Mean cosine of a shift of h between every two images, over all timesteps."""
    found, n = [], len(h)
    for place in range(len(shop.collected.timesteps)):
        unit = F.normalize(shift_at(shop, shift, h, place).flatten(1), dim=1)
        cosines = unit @ unit.T
        found.append(float((cosines.sum() - cosines.trace()) / max(n * (n - 1), 1)))
    return float(np.mean(found))


def robustness(case: Case) -> Property:
    """What random shifts do in h, and in eps."""
    shop, unit, model = case.shop, case.amounts["mean"], case.shop.model
    mean = difference(shop, case.name)
    seed = case.setting.flipping.seed
    white = draws.normal([(seed, place, RANDOM_DRAW) for place in range(len(mean.timesteps))], model.bottleneck_shape)
    random = as_long(Direction(
        space="h", vector=white, timesteps=mean.timesteps, unit="random", name="random", model=mean.model,
    ), mean)  # fmt: skip
    plain = case.moved()

    def steer(cond: Condition, rows: slice) -> BoundDenoiser:
        names = [(seed, row, RANDOM_DRAW) for row in range(rows.start, rows.start + len_of(rows, case.faces))]
        noise = draws.normal(names, model.noise_shape)
        return bind(RandomEps(model.denoiser, Shifts([(unit, mean)]), noise, shop.interval), cond)

    edits = {
        "the attribute's shift of h": case.moved((unit, mean)),
        "a random shift of h, as long": case.moved((unit, random)),
        "a random shift of eps, as large as the attribute's": decode(
            model, case.faces.codes, batch_size=shop.batch_size, steer=steer
        ),
    }
    seen = case.setting.seen(plain)
    figures: dict[str, Any] = {"n": len(plain)}
    rows = []
    for title, edited in edits.items():
        moved = float(squares((edited.double() - plain.double()) / 2).mean())
        others = float((case.setting.seen(edited) - seen).abs().sum(dim=1).mean())
        grain = float(roughness(edited) / roughness(plain))
        figures[title] = {"mse": moved, "judged": others, "grain": grain}
        rows.append({
            "shift": title, "MSE to the unedited": f"{moved:.4f}", "change of all attributes": f"{others:.2f}",
            "grain": f"{grain:.2f}", "n": str(len(plain)),
        })  # fmt: skip
    pictures = {"unedited": case.shown(plain)} | {title: case.shown(image) for title, image in edits.items()}
    return Property(
        name="robustness to random shifts", figures=figures, rows=rows, pictures=pictures,
        meaning="A random shift of h is as long as the attribute's at its chosen amount; a random shift of eps is as "
        "large, at every step, as what the attribute's changes in eps. Change of all attributes: of the judge's "
        "probabilities, summed. Grain: mean squared difference of neighbouring pixels, 1 = as without a shift.",
    )  # fmt: skip


def len_of(rows: slice, faces: Faces) -> int:
    """How many faces the rows are."""
    return len(range(*rows.indices(len(faces))))


def roughness(images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring pixels."""
    return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()


class RandomEps(Steered):
    """A denoiser whose eps is moved by noise, in every image as far as a shift of h would move it there."""

    _alike = False  # the noise is that of one batch

    def __init__(
        self,
        denoise: NetworkDenoiser,
        shift: Shift,
        noise: Float[Tensor, "b c h w"],
        interval: tuple[float, float],
    ) -> None:
        super().__init__(denoise)
        self._network_denoiser, self._shift, self._noise, self._interval = denoise, shift, noise, interval

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """One evaluation of the network, and one more of its decoder within the interval."""
        if idle(self._interval, t):
            return self._network_denoiser(x_t, t, cond)
        plain, shifted = predictions(self._network_denoiser, x_t, t, cond, self._shift)
        assert plain is not None
        size = (shifted.eps - plain.eps).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        alpha, sigma = level_like(self.schedule, t, x_t)
        return plain.steer(size * self._noise.to(x_t), sigma / alpha)


def consistency(case: Case) -> Property:
    """Whether one edit is as strong at any number of steps."""
    shop, model, codes = case.shop, case.shop.model, case.faces.codes
    shift, steps = difference(shop, case.name), case.setting.consistent_steps
    walks: dict[str, Callable[[int, float], Tensor]] = {
        SYMMETRIC: lambda number, amount: walked(case, number, [(amount, shift)]),
    }
    amounts = {SYMMETRIC: case.amounts["mean"]}
    if "f_t" in case.amounts:
        walks[TRAINED] = lambda number, amount: walked(case, number, [(amount, learned(shop, case.name))])
        amounts[TRAINED] = case.amounts["f_t"]
    if "asymmetric" in case.amounts:
        walks[PUBLISHED] = lambda number, amount: asymmetric(
            model, codes, scaled_as_published([(amount, shift)], trained_steps=shop.steps, steps=number),
            t_edit=shop.t_edit, steps=number, batch_size=shop.batch_size,
        )  # fmt: skip
        amounts[PUBLISHED] = case.amounts["asymmetric"]
    figures: dict[str, Any] = {"n": len(codes), "steps": list(steps)}
    rows, pictures = [], {}
    for title, walk in walks.items():
        changes = []
        for number in steps:
            plain, edited = walk(number, 0.0), walk(number, amounts[title])
            changes.append(float((case.logits(edited) - case.logits(plain)).mean()))
            pictures[f"{title}, {number}"] = case.shown(edited)
        moved = abs(changes[-1]) >= LEAST_CHANGE
        off = max(abs(change / changes[-1] - 1) for change in changes) if moved else None
        figures[title] = {"changes": changes, "off": off}
        rows.append({
            "process": title, **{f"{number} steps": f"{c:+.2f}" for number, c in zip(steps, changes, strict=True)},
            f"largest difference to {steps[-1]} steps": "–" if off is None else f"{off:.0%}",
            "n": str(len(codes)),
        })  # fmt: skip
    return Property(
        name=CONSISTENCY, figures=figures, rows=rows, pictures=pictures,
        meaning="The change of the judge's mean logit by one shift (the mean difference; f_t where it is named), from "
        f"the same noise, beside a walk without a shift, with t_edit = {shop.t_edit:g} a level of every walk. The "
        "symmetric edit needs no rule for the number of steps; the published one is scaled by S / S~.",
    )  # fmt: skip


def walked(case: Case, steps: int, terms: Sequence[tuple[float, Shift]]) -> Float[Tensor, "n c h w"]:
    """Images from the noise of codes, edited, by SOLVER."""
    shop, model = case.shop, case.shop.model
    grid = model.grid(steps, forced=[shop.t_edit] if shop.t_edit > 0 else [])
    out = []
    for rows in case.setting.flipping.parts(len(case.faces)):
        codes = case.faces.codes[rows]
        assert codes.noise is not None
        with evaluation(model):
            gain, shift = with_gain(terms)
            edited = Edited(model.denoiser, shift, gain, interval=shop.interval)
            x_T = codes.noise.x_T.to(model.device)
            walk = SOLVERS[SOLVER](bind(edited, condition_of(model, codes, None)), x_T, grid)
            out.append(model.crop(last(walk)[0]).float().cpu())
    return torch.cat(out)


def combination(
    setting: Setting, faces: Faces, amounts: Mapping[str, float], pairs: Mapping[tuple[str, str], Sequence[int]]
) -> list[Property]:
    """Two attributes given at once: the sum of their shifts.

    faces: all that are edited. amounts: of the attributes. pairs: such as may go together, and rows of faces that lack
    both.
    """
    return [_combined(setting, pair, faces[rows], amounts) for pair, rows in pairs.items()]


def lacking(images: ImageSet, names: Sequence[str]) -> list[int]:
    """Images that have none of the attributes."""
    return np.flatnonzero(np.all([images.attributes[name] == 0 for name in names], axis=0)).tolist()


def _combined(setting: Setting, pair: tuple[str, str], faces: Faces, amounts: Mapping[str, float]) -> Property:
    shop = setting.shop
    terms = [(amounts[name], difference(shop, name)) for name in pair]
    columns = [setting.flipping.judge.config.attributes.index(name) for name in pair]
    first, second = (name.replace("_", " ") for name in pair)
    chosen = {"unedited": [], first: terms[:1], second: terms[1:], f"{first} + {second}": terms}
    figures: dict[str, Any] = {"n": len(faces)}
    rows, pictures = [], {}
    for title, some in chosen.items():
        image = shop.moved(faces.codes, some)
        there = (setting.seen(image)[:, columns] > 0.5).double().mean(dim=0).tolist()
        figures[title] = dict(zip(pair, there, strict=True))
        pictures[title] = setting.display(image)[:SHOWN]
        rows.append({
            "given": title, f"{first} is seen": f"{there[0]:.0%}", f"{second} is seen": f"{there[1]:.0%}",
            "n": str(len(faces)),
        })  # fmt: skip
    return Property(
        name=f"combination of {first} and {second}", figures=figures, rows=rows, pictures=pictures,
        meaning="Images that lack both are given one, the other, and both: the two shifts are added. Share of the "
        "images in which the judge then sees each.",
    )  # fmt: skip
