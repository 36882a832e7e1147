"""Which member of the closed-form family of directions to use, found without looking at a picture.

The labelled codes are halved. Directions are made from one half; what they do is read by probes of all attributes that
were fitted to the other half, and by its covariance; then the halves change places, and other halves are drawn. For a
step that changes the target's independent probe by one

    leakage   mean change of the other attributes' independent probes, in logits (standard deviations for real values)
    length    its Mahalanobis length, in sigma: how far codes are taken from those that there are

and the member with the least leakage + length / 3 is chosen: the length counts as a share of the three sigma beyond
which edits are warned of. Both are absolute, because shares of what the logistic direction has are as noisy as that is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from zsem.semantics.directions import GUARD, Rows, Square, class_centres, cost, lengths, shrunk_covariance
from zsem.semantics.probes import Probe, group_numbers, is_binary
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

G_GRID = (0.0, 0.1, 1.0)
LAM_GRID = (0.0, 1.0, 10.0, 1e3)
HALVINGS = 4
"""How often labels are halved: the leakage of one halving is uncertain by half of itself."""
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
    baselines: Mapping[str, float] = field(default_factory=dict)
    """expected leakage of the directions "logistic" and "mean", as far as it can be told"""


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
    pairs = []
    for halving in range(HALVINGS):
        first = halves(len(codes), groups, seed, halving)
        parts = (_half(part, codes, labels, probes, groups) for part in (first, ~first))
        one, other = parts
        pairs += [(one, other), (other, one)]
    return {name: _choice(name, pairs, exclusive[name]) for name in labels}


def halves(number: int, groups: Sequence[str] | None, seed: int, halving: int = 0) -> np.ndarray:
    """Which images are in the first half, bool [number]; groups stay whole."""
    rng = generator(seed, halving, HALVES_DRAW)
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

    def __init__(
        self,
        codes: Rows,
        labels: Mapping[str, Float[np.ndarray, " m"]],
        probes: Mapping[str, Probe],
        groups: Sequence[str] | None = None,
    ) -> None:
        self.covariance: Square = shrunk_covariance(codes)
        self.weights: dict[str, np.ndarray] = {}
        self.differences: dict[str, np.ndarray] = {}
        for name, values in labels.items():
            try:
                fitted = Probe(C=probes[name].penalty_ if probes[name].binary_ else None).fit(codes, values, groups)
            except ZsemError:  # too few labels here
                continue
            if fitted.binary_ == probes[name].binary_ and fitted.coef_.any():
                self.weights[name] = fitted.coef_ / label_scale(values)
                without, having = class_centres(codes, values)
                self.differences[name] = having - without

    def others(self, name: str, exclusive: Sequence[str]) -> Rows:
        """Gradients of the attributes that are held still, [m, d]."""
        rows = [weight for other, weight in self.weights.items() if other != name and other not in exclusive]
        return np.array(rows).reshape(len(rows), len(self.covariance))


def _half(
    part: np.ndarray,
    codes: Rows,
    labels: Mapping[str, Float[np.ndarray, " n"]],
    probes: Mapping[str, Probe],
    groups: Sequence[str] | None,
) -> _Half:
    """The half of the images that `part` names, bool."""
    members = [group for group, here in zip(groups, part, strict=True) if here] if groups else None
    return _Half(codes[part], {name: values[part] for name, values in labels.items()}, probes, members)


def _choice(name: str, pairs: Sequence[tuple[_Half, _Half]], exclusive: Sequence[str]) -> Choice:
    usable = [pair for pair in pairs if all(name in half.weights for half in pair)]

    def member(g: float, lam: float) -> Callable[[_Half], np.ndarray]:
        return lambda own: np.linalg.solve(
            cost(own.covariance, own.others(name, exclusive), g=g, lam=lam), own.weights[name]
        )

    best, least = Choice(), np.inf
    for g in G_GRID:
        for lam in LAM_GRID:
            found = _expected(name, usable, exclusive, member(g, lam))
            if found is None:
                continue
            leakage, length, success = found
            badness = (leakage or 0.0) + length / GUARD
            if badness < least:
                best, least = Choice(g=g, lam=lam, leakage=leakage, length=length, success=success), badness
    steps: dict[str, Callable[[_Half], np.ndarray]] = {
        "logistic": lambda own: own.weights[name],
        "mean": lambda own: own.differences[name],
    }
    seen = {method: _expected(name, usable, exclusive, step) for method, step in steps.items()}
    return replace(
        best, baselines={method: found[0] for method, found in seen.items() if found and found[0] is not None}
    )


def _expected(
    name: str,
    pairs: Sequence[tuple[_Half, _Half]],
    exclusive: Sequence[str],
    step_of: Callable[[_Half], np.ndarray],
) -> tuple[float | None, float, float] | None:
    """Leakage, length and success of a way to make steps; None where the independent probes see no rise.

    Changes are averaged over halvings before they are divided by the success, which alone may come near to nothing.
    """
    if not pairs:
        return None
    changes, sigma, rises = [], [], []
    for own, judge in pairs:
        step = step_of(own)
        step = step / (own.weights[name] @ step)
        rises.append(judge.weights[name] @ step)
        changes += np.abs(judge.others(name, exclusive) @ step).tolist()
        sigma.append(lengths(step[None], judge.covariance)[0])
    success = float(np.mean(rises))
    if success <= 0:
        return None
    return float(np.mean(changes)) / success if changes else None, float(np.mean(sigma)) / success, success
