"""Which member of the closed-form family of directions to use, found without looking at a picture.

The labelled codes are halved. Directions are made from one half; what they do is read by probes of all attributes that
were fitted to the other half, and by its covariance; then the halves change places. For a step that changes the
target's independent probe by one

    leakage   mean change of the other attributes' independent probes, in logits (standard deviations for real values)
    length    its Mahalanobis length, in sigma: how far codes are taken from those that there are

Both count as shares of what the logistic direction has; the member with the least sum is chosen. So a direction may be
twice as long where it halves the leakage, and a step that leaves the codes wins nothing by leaking less.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from zsem.semantics.directions import Rows, Square, cost, lengths, shrunk_covariance
from zsem.semantics.probes import Probe, group_numbers, is_binary
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

G_GRID = (0.0, 0.1, 1.0)
LAM_GRID = (0.0, 1.0, 10.0, 1e3)
LOGISTIC = (1.0, 0.0)
HALVES_DRAW = 2  # the last integer of a draw's name: what the draw is for
EXPECTED = 5
"""Images that should have both of two attributes by chance; where none has, they are taken as mutually exclusive."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A member of the family, and what it is expected to do."""

    g: float = 0.0
    """0 weighs a step by the spread of codes, 1 is Euclidean"""
    lam: float = 1.0
    """how much other attributes are held still"""
    leakage: float | None = None
    """expected change of other attributes for one of the target; None where there are none, or too few labels"""
    length: float | None = None
    """expected length in sigma for a change of the target by 1; None where there are too few labels"""
    success: float | None = None
    """what the independent probe sees of a change by 1; None where there are too few labels"""


def choose(
    codes: Rows,
    labels: Mapping[str, Float[np.ndarray, " m"]],
    probes: Mapping[str, Probe],
    exclusive: Mapping[str, Sequence[str]],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Choice]:
    """The choice for every attribute; where a half has too few labels of it, `Choice()`.

    codes: normalised, [m, d]. probes: fitted to them, whose penalties are used again.
    exclusive: by attribute, the attributes that it excludes, which are not held still.
    groups: what belongs together and is not divided.
    """
    first = halves(len(codes), groups, seed)
    parts = [_Half(codes[part], {k: v[part] for k, v in labels.items()}, probes) for part in (first, ~first)]
    return {name: _choice(name, parts, exclusive[name]) for name in labels}


def halves(number: int, groups: Sequence[str] | None, seed: int) -> np.ndarray:
    """Which images are in the first half, bool [number]; groups stay whole."""
    rng = generator(seed, HALVES_DRAW)
    member = group_numbers(groups, np.ones(number, dtype=bool))
    sizes = np.bincount(member)
    order = rng.permutation(len(sizes))
    counts = sizes[order]
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[np.cumsum(counts) - counts / 2 <= number / 2]] = True
    return chosen[member]


def exclusive_pairs(
    labels: Mapping[str, Float[np.ndarray, " m"]], classes: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The attributes that each attribute excludes: other `classes`, and those that never go with it by the labels.

    Two 0/1 attributes exclude each other where no image has both, though five would by chance.
    """
    binary = {name: values for name, values in labels.items() if is_binary(values)}

    def excludes(a: str, b: str) -> bool:
        if a in classes and b in classes:
            return True
        if a not in binary or b not in binary:
            return False
        known = ~np.isnan(labels[a]) & ~np.isnan(labels[b])
        x, y = labels[a][known], labels[b][known]
        return bool(known.any() and not (x * y).any() and x.mean() * y.sum() >= EXPECTED)

    return {a: tuple(b for b in labels if b != a and excludes(a, b)) for a in labels}


def label_scale(labels: Float[np.ndarray, " m"]) -> float:
    """What a probe's score is measured in to compare attributes: 1 logit, or the standard deviation of real labels."""
    return 1.0 if is_binary(labels) else float(np.nanstd(labels)) or 1.0


class _Half:
    """Probes and covariance of half of the images; attributes with too few labels there have no probe."""

    def __init__(self, codes: Rows, labels: Mapping[str, Float[np.ndarray, " m"]], probes: Mapping[str, Probe]) -> None:
        self.covariance: Square = shrunk_covariance(codes)
        self.weights: dict[str, np.ndarray] = {}
        for name, values in labels.items():
            try:
                fitted = Probe(C=probes[name].penalty_ if probes[name].binary_ else None).fit(codes, values)
            except ZsemError:  # too few labels here
                continue
            if fitted.binary_ == probes[name].binary_ and fitted.coef_.any():
                self.weights[name] = fitted.coef_ / label_scale(values)

    def others(self, name: str, exclusive: Sequence[str]) -> Rows:
        """Gradients of the attributes that are held still, [m, d]."""
        rows = [weight for other, weight in self.weights.items() if other != name and other not in exclusive]
        return np.array(rows).reshape(len(rows), len(self.covariance))


def _choice(name: str, parts: Sequence[_Half], exclusive: Sequence[str]) -> Choice:
    if any(name not in part.weights for part in parts):
        return Choice()
    members = [(g, lam) for g in G_GRID for lam in LAM_GRID]
    seen = {member: _expected(name, parts, exclusive, *member) for member in members}
    base = seen[LOGISTIC]
    if base is None:
        return Choice()

    def badness(member: tuple[float, float]) -> float:
        found = seen[member]
        if found is None:
            return np.inf
        leakage = found[0] / base[0] if base[0] else 0.0
        return leakage + found[1] / base[1]

    best = min(members, key=badness)
    found = seen[best]
    assert found is not None  # at worst it is the logistic direction
    held = all(len(part.others(name, exclusive)) for part in parts)
    return Choice(g=best[0], lam=best[1], leakage=found[0] if held else None, length=found[1], success=found[2])


def _expected(
    name: str, parts: Sequence[_Half], exclusive: Sequence[str], g: float, lam: float
) -> tuple[float, float, float] | None:
    """Leakage, length and success of a member, means over both ways; None where the independent probe sees no rise."""
    found = []
    for own, judge in (parts, parts[::-1]):
        step = np.linalg.solve(cost(own.covariance, own.others(name, exclusive), g=g, lam=lam), own.weights[name])
        step /= own.weights[name] @ step
        success = float(judge.weights[name] @ step)
        if success <= 0:
            return None
        others = judge.others(name, exclusive) @ step
        leakage = float(np.abs(others).mean()) / success if len(others) else 0.0
        found.append((leakage, float(lengths(step[None], judge.covariance)[0]) / success, success))
    leakage, length, success = np.mean(found, axis=0)
    return float(leakage), float(length), float(success)
