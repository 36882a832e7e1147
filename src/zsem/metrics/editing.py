"""What edits do to pictures, as an independent judge sees it, and how near they come to the true counterfactual."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from zsem.metrics.intervals import Interval, bootstrap, percentiles, wilson
from zsem.semantics.probes import RESAMPLES

Images = Float[Tensor, "n c h w"]


class Calibration:
    """Logits of a judge to probabilities that are frequencies: Platt's logistic function of each logit.

    A judge that knows its training images too well is too sure of everything; a slope and an offset for each attribute,
    fitted to images that it has not seen, mend that.

    slope_, offset_: probability = sigmoid(slope logit + offset), [a].
    """

    slope_: Float64[Tensor, " a"]
    offset_: Float64[Tensor, " a"]

    def fit(self, logits: Float[Tensor, "n a"], labels: Shaped[Tensor, "n a"]) -> Calibration:
        """logits: of images that the judge was not trained on. labels: 0, 1, or NaN where it is not known.

        Targets are Platt's (n+ + 1) / (n+ + 2) and 1 / (n- + 2), which keep a perfect judge finite.
        Raises ValueError for an attribute of one kind only.
        """
        slopes, offsets = [], []
        for column in range(logits.shape[1]):
            known = ~labels[:, column].double().isnan()
            x, y = logits[known, column].double().numpy()[:, None], labels[known, column].double().numpy()
            positive = int(y.sum())
            if positive in {0, len(y)}:
                raise ValueError("a probability is calibrated on images of both kinds")
            high, low = (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2)
            share = np.where(y == 1, high, low)
            fitted = LogisticRegression(C=np.inf, max_iter=1000).fit(
                np.concatenate([x, x]), np.repeat([1, 0], len(x)), sample_weight=np.concatenate([share, 1 - share])
            )
            slopes.append(fitted.coef_[0, 0])
            offsets.append(fitted.intercept_[0])
        self.slope_, self.offset_ = (
            torch.tensor(slopes, dtype=torch.float64),
            torch.tensor(offsets, dtype=torch.float64),
        )
        return self

    def __call__(self, logits: Float[Tensor, "n a"]) -> Float64[Tensor, "n a"]:
        """Probabilities of 1."""
        return torch.sigmoid(logits.double() * self.slope_ + self.offset_)


@dataclass(frozen=True, kw_only=True)
class EditFigures:
    """What `EditEffect` has found of one attribute's edits."""

    n: int
    """Number of edited images."""
    change: float
    """Mean change of the attribute's probability towards what was asked for, -1..1."""
    hit: float
    """Share of the images that the judge then takes for what was asked for."""
    before: float
    """That share of the images as they were: what the judge gets wrong without any edit."""
    leakage: float | None
    """Sum of |changes of the other attributes' probabilities| over the net change of the attribute's own towards what
    was asked for; 0 is best. Attributes that exclude it are no others. None where there is no such change: steps to
    and fro are no success to divide by."""
    requested: float
    """Median |achieved - requested| probability."""
    outside: float | None
    """Mean squared change outside the region in which the true counterfactual differs, [0, 1] scale."""
    error: float | None
    """Mean squared error to the true counterfactual, [0, 1] scale."""
    unedited: float | None
    """That of the image as it was: an edit worth its name lies below."""
    nearer: float | None
    """Share of the images that came nearer to their counterfactual."""


class EditEffect:
    """The effect of edits of one attribute on any number of images."""

    def __init__(self, attributes: Sequence[str], target: str, *, exclusive: Collection[str] = ()) -> None:
        """attributes: in the order of the judge's probabilities. target: the one that is edited.

        exclusive: those that never go with it, e.g. the other classes: that they change is no leakage.
        """
        self._column = list(attributes).index(target)
        self._others = torch.tensor([name != target and name not in exclusive for name in attributes])
        self._rows: list[Float64[Tensor, "n k"]] = []

    def update(
        self,
        before: Float[Tensor, "n a"],
        after: Float[Tensor, "n a"],
        requested: Float[Tensor, " n"],
        *,
        images: tuple[Images, Images] | None = None,
        truth: Images | None = None,
    ) -> None:
        """Count one batch.

        before, after: the judge's probabilities of the image as it was and of the edited one.
        requested: probability that was asked for.
        images, truth: the image as it was and the edited one, and the true counterfactual, in [-1, 1].
        """
        column = self._column
        moved = (after - before).double()
        own = moved[:, column]
        towards = own * torch.sign(requested.double() - 0.5)
        hit, already = (((p[:, column] > 0.5) == (requested > 0.5)).double() for p in (after, before))
        gap = (after[:, column].double() - requested.double()).abs()
        others = moved[:, self._others].abs().sum(dim=1)
        nothing = torch.full_like(own, torch.nan)
        outside, error, unedited = nothing, nothing, nothing
        if images is not None and truth is not None:
            was, edited, wanted = ((image.double() + 1) / 2 for image in (*images, truth))
            error, unedited = squares(edited - wanted), squares(was - wanted)
            outside = squares(edited - was, ~region(was, wanted))
        self._rows.append(torch.stack([towards, hit, already, others, gap, outside, error, unedited], dim=1))

    def merge(self, other: EditEffect) -> None:
        """Add what `other` has counted; `other` stays as it is."""
        self._rows += other._rows

    def compute(self) -> EditFigures:
        """The figures over everything counted so far. Raises ValueError where nothing has been counted."""
        if not self._rows:
            raise ValueError("no edits have been counted yet")
        towards, hit, already, others, gap, outside, error, unedited = torch.cat(self._rows).T
        net = float(towards.sum())
        known = ~error.isnan()

        def mean(values: Tensor) -> float | None:
            return float(values[known].mean()) if bool(known.any()) else None

        return EditFigures(
            n=len(towards), change=float(towards.mean()), hit=float(hit.mean()), before=float(already.mean()),
            leakage=float(others.sum()) / net if net > 0 else None, requested=float(gap.median()),
            outside=mean(outside), error=mean(error), unedited=mean(unedited),
            nearer=mean((error < unedited).double()),
        )  # fmt: skip

    def intervals(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
        """95 % intervals over images of change, hit, before and leakage, by the names of `EditFigures`.

        Of the shares they are Wilson's, else the bootstrap's. Leakage has none where it is none, or the net change is
        none in some resample. The order of images makes no difference. ValueError: nothing has been counted.
        """
        if not self._rows:
            raise ValueError("no edits have been counted yet")
        rows = torch.cat(self._rows).numpy()[:, :4]
        towards, hit, already, others = rows[np.lexsort(rows.T)].T
        n = len(rows)

        def mean(values: np.ndarray) -> np.ndarray:
            return bootstrap(lambda drawn: float(drawn @ values) / n, n, resamples=resamples, seed=seed)

        change = mean(towards)
        found = {"change": percentiles(change)}
        found |= {name: wilson(values.mean(), n) for name, values in (("hit", hit), ("before", already))}
        if towards.sum() > 0 and (change > 0).all():
            found["leakage"] = percentiles(mean(others) / change)
        return found


def region(was: Float64[Tensor, "n c h w"], wanted: Float64[Tensor, "n c h w"]) -> Bool[Tensor, "n h w"]:
    """Where two pictures on the [0, 1] scale differ by a grey level or more in any channel."""
    # half a level, because rounding makes one level a little more or less than 1 / 255
    return ((was - wanted).abs() > 0.5 / 255).any(dim=1)


def squares(
    difference: Float64[Tensor, "n c h w"], where: Bool[Tensor, "n h w"] | None = None
) -> Float64[Tensor, " n"]:
    """Mean square of each image, over all of it or a part; 0 where that is empty."""
    mean = difference.square().mean(dim=1)
    if where is None:
        return mean.mean(dim=(1, 2))
    return (mean * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp(min=1)


def monotonicity(probabilities: Float[Tensor, "n k"]) -> float:
    """Mean over images of Spearman's correlation between the amount of an edit and what the judge sees, -1..1.

    probabilities: of the edited attribute at k growing amounts. An image on which nothing changes counts as 0.
    """
    amounts = np.arange(probabilities.shape[1])
    found = [
        0.0 if np.ptp(row) == 0 else float(np.corrcoef(amounts, rankdata(row))[0, 1])
        for row in probabilities.double().numpy()
    ]
    return float(np.mean(found))
