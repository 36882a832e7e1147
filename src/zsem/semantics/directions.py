"""Directions in closed form, in any space of codes [n, d]: normalised z, or h.

A direction is a step that changes an attribute's classifier by a known amount. Many steps do; they differ in what else
they change. With normalised codes of covariance S, gradients w_k of the target's classifier and W_o of the others',
the family is (cost of a step: (1-g) its Mahalanobis length + g its Euclidean one + lam the change of other attributes)

    delta = M^-1 w_k / (w_k^T M^-1 w_k) amount,    M = (1-g) S^-1 + g I + lam W_o W_o^T

g=1, lam=0 is the logistic direction of DiffAE (2111.15640, section 5.1); g=0, lam=0 the pattern S w_k of a linear
model (Haufe et al. 2014, eq. 6); a large lam holds the other attributes still; g=0 with a large lam is the shortest
such step among the codes that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, nn

from zsem.nets.blocks import ResBlock
from zsem.semantics.probes import Codes, Labels, is_binary, labelled, to_float64
from zsem.values.direction import Direction
from zsem.values.errors import ZsemError

Vector = Float[np.ndarray, " d"]
Rows = Float[np.ndarray, "m d"]
Square = Float[np.ndarray, "d d"]

GUARD = 3.0
"""Sigma (Mahalanobis): a longer step takes codes where the decoder has seen none."""
PARALLEL = 1e-8
"""So much of a gradient, as a share of its squared length, must be left when others are held still."""
SILU_NODES = 32  # of the Gauss quadrature; the mean slope of SiLU is then exact to 1e-6 for deviations up to 3


def logistic(classifier: Direction) -> Direction:
    """The gradient of the classifier (DiffAE, section 5.1), rescaled: an amount of 1 changes its logit by 1.

    classifier: any direction that comes from one, e.g. of `Probe.direction` or of an imported classifier.
    """
    weight = to_float64(classifier.gradient)
    square = float(weight @ weight)
    return replace(_of(classifier, weight / square), slope=square, intercept=classifier.intercept)


def mean_difference(classifier: Direction, centres: Float[np.ndarray, "2 d"]) -> Direction:
    """From the mean code of images without the attribute towards that of images with it, [2, d] of `class_centres`.

    An amount of 1 changes the classifier's logit by 1. Raises ZsemError where the classifier does not see a rise.
    """
    return _of(classifier, basis(classifier, centres[1] - centres[0]))


def basis(classifier: Direction, step: Vector) -> Vector:
    """`step` rescaled to change the classifier by 1. Raises ZsemError where it does not raise it."""
    rise = float(to_float64(classifier.gradient) @ step)
    if rise <= 0:
        raise ZsemError(f"the mean codes with and without {classifier.name} do not differ: give more labels")
    return step / rise


def constrained(
    classifier: Direction,
    covariance: Square,
    others: Rows | None = None,
    *,
    g: float | int = 0.0,
    lam: float | int = 0.0,
    keep: Float[np.ndarray, "k d"] | None = None,
) -> Direction:
    """The family above for one target; an amount of 1 changes the classifier's logit by 1.

    covariance: S of codes, [d, d], of full rank (`shrunk_covariance`).
    others: gradients of attributes that a large `lam` holds still, [m, d]; g in 0..1, lam >= 0.
    keep: gradients of attributes that must not change at all, [k, d].
    Raises ZsemError where the target cannot be changed without those.
    """
    weights = to_float64(classifier.gradient)[None]
    kept = weights[:0] if keep is None else keep
    columns = np.linalg.solve(cost(covariance, others, g=g, lam=lam), np.concatenate([weights, kept]).T)
    return _of(classifier, joint_steps(columns, weights, kept, [classifier.name])[:, 0])


def cost(covariance: Square, others: Rows | None = None, *, g: float | int, lam: float | int) -> Square:
    """M = (1-g) S^-1 + g I + lam W_o W_o^T, the cost of a step. Raises ValueError for g outside 0..1 or lam < 0."""
    if not (0 <= g <= 1 and lam >= 0):
        raise ValueError(f"g must be in 0..1 and lam at least 0, not {g} and {lam}")
    metric = g * np.eye(len(covariance))
    if g < 1:
        metric = metric + (1 - g) * np.linalg.inv(covariance)
    return metric if others is None or not len(others) else metric + lam * others.T @ others


def joint_steps(
    columns: Float[np.ndarray, "d c"],
    targets: Float[np.ndarray, "t d"],
    kept: Float[np.ndarray, "k d"],
    names: Sequence[str],
) -> Float[np.ndarray, "d t"]:
    """Steps within the span of `columns` that each change one target by 1, no other target and nothing that is kept.

    columns: [d, t + k], as many as there are gradients of targets [t, d] and of what is kept [k, d] together.
    Raises ZsemError, which has the `names` of the targets, where no such steps exist.
    """
    gradients = np.concatenate([targets, kept])
    # lengths are divided out, so that the condition tells of angles alone
    lengths, sizes = np.linalg.norm(gradients, axis=1), np.linalg.norm(columns, axis=0)
    if not lengths.all():
        raise ZsemError(f"the classifier of {', '.join(names)} is the same for all codes, so it has no direction")
    columns = columns / sizes
    system = (gradients / lengths[:, None]) @ columns
    if np.linalg.svd(system, compute_uv=False)[-1] < PARALLEL:
        raise ZsemError(f"{', '.join(names)} cannot be changed like this: its codes do not tell it from what is kept")
    return columns @ np.linalg.solve(system, np.diag(1 / lengths)[:, : len(targets)])


def project_out(direction: Direction, others: Sequence[Direction]) -> Direction:
    """The part of a direction that is orthogonal to others (InterFaceGAN, 1907.10786, section 2.3).

    Where the direction comes from a classifier, the rest is rescaled so that an amount of 1 keeps its meaning.
    Raises ZsemError where nothing is left.
    """
    if not others:
        return direction
    for other in others:
        direction.check_same_space(other)
    vector = to_float64(direction.vector)
    _, sizes, rows = np.linalg.svd(np.stack([to_float64(other.vector) for other in others]), full_matrices=False)
    span = rows[sizes > PARALLEL * sizes.max()]
    rest = vector - span.T @ (span @ vector)
    if rest @ vector <= PARALLEL * (vector @ vector):
        raise ZsemError(f"nothing is left of {direction.name} without {', '.join(other.name for other in others)}")
    if direction.slope is not None:
        rest *= (vector @ vector) / (rest @ vector)
    return replace(direction, vector=torch.from_numpy(rest).float(), slope=None, intercept=None)


def pca(codes: Codes, number: int, *, space: str = "z", model: str = "") -> list[Direction]:
    """The directions in which codes vary most, first the most; an amount of 1 is one standard deviation.

    Raises ZsemError for fewer than one, or more than codes have numbers or images.
    """
    x = to_float64(codes)
    check_number(number, min(len(x) - 1, x.shape[1]))
    _, spread, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return [_component(f"pca_{i}", upright(rows[i]) * spread[i] / np.sqrt(len(x)), space, model) for i in range(number)]


def sefa(
    weights: Rows, number: int, *, covariance: Square | None = None, space: str = "z", model: str = ""
) -> list[Direction]:
    """The directions to which the layers that codes enter by answer most (SeFa, 2007.06600, eq. 4), first the most.

    weights: of these layers, stacked, [m, d], e.g. of `entry_weights`.
    covariance: of codes; with it an amount of 1 is one standard deviation of codes along the direction, else a length
        of 1, which is the same for normalised codes whose dimensions are uncorrelated.
    """
    check_number(number, min(weights.shape))
    rows = np.linalg.svd(weights, full_matrices=False).Vh[:number]
    sizes = np.ones(number) if covariance is None else np.sqrt(np.einsum("kd,de,ke->k", rows, covariance, rows))
    return [
        _component(f"sefa_{i}", upright(row) * size, space, model)
        for i, (row, size) in enumerate(zip(rows, sizes, strict=True))
    ]


def entry_weights(unet: nn.Module, mean: Float[Tensor, " d"], std: Float[Tensor, " d"]) -> Rows:
    """The weights by which normalised z enters a U-Net, of all its residual blocks, [m, d].

    z goes through SiLU first, for which stands its mean slope over z ~ N(mean, std^2): the best linear fit (Stein).
    """
    blocks = [block for block in unet.modules() if isinstance(block, ResBlock) and block.embed_z is not None]
    if not blocks:
        raise ValueError("z does not enter this network")
    nodes, shares = hermegauss(SILU_NODES)
    centre, scale = to_float64(mean), to_float64(std)
    z = centre + scale * nodes[:, None]
    sigmoid = 0.5 * (1 + np.tanh(z / 2))
    slope = shares @ (sigmoid * (1 + z * (1 - sigmoid))) / shares.sum()
    return np.concatenate([to_float64(block.embed_z.weight) for block in blocks if block.embed_z]) * (slope * scale)


def shrunk_covariance(codes: Codes) -> Square:
    """Covariance of codes [d, d] of full rank, shrunk towards a multiple of the identity (Ledoit and Wolf 2004).

    Raises ZsemError for fewer than two codes, or codes that are all the same.
    """
    from sklearn.covariance import LedoitWolf

    x = to_float64(codes)
    if len(x) < 2 or not np.ptp(x, axis=0).any():
        raise ZsemError("the covariance of codes needs images that differ: give more of them")
    return LedoitWolf().fit(x).covariance_


def class_centres(codes: Codes, labels: Labels) -> Float[np.ndarray, "2 d"]:
    """Mean codes of the images with label 0 and 1; NaN is left out.

    For real labels: what linear regression of codes on the label expects one standard deviation below and above its
    mean. Raises ZsemError where all images have one label or none.
    """
    x, y = labelled(codes, labels)
    if len(np.unique(y)) < 2:
        raise ZsemError("its images all have one label or none: give more images, or leave it out")
    if is_binary(y):
        return np.stack([x[y == kind].mean(0) for kind in (0, 1)])
    step = (y - y.mean()) @ (x - x.mean(0)) / len(y) / y.std()
    return np.stack([x.mean(0) - step, x.mean(0) + step])


def lengths(steps: Float[np.ndarray, "n d"], covariance: Square) -> Float[np.ndarray, " n"]:
    """Mahalanobis length of steps, [n]: how many standard deviations (sigma) of codes they are."""
    return np.sqrt(np.einsum("nd,dn->n", steps, np.linalg.solve(covariance, steps.T)))


def upright(vector: Vector) -> Vector:
    """The vector or its opposite, so that its largest number is positive: the sign of an SVD is arbitrary."""
    return vector * np.sign(vector[np.abs(vector).argmax()])


def check_number(number: int, most: int) -> None:
    """Raise ZsemError where there are not so many components."""
    if not 1 <= number <= most:
        raise ZsemError(f"there are {most} components here, not {number}: ask for 1 to {most}")


def _of(direction: Direction, vector: Vector) -> Direction:
    """A step that changes the classifier of a direction by 1, and need not be its gradient."""
    unit = direction.unit if direction.unit.startswith(("logit of ", "unit of ")) else f"logit of {direction.name}"
    return replace(direction, vector=torch.from_numpy(vector).float(), unit=unit, slope=None, intercept=None)


def _component(name: str, vector: Vector, space: str, model: str) -> Direction:
    return Direction(
        space=space, vector=torch.from_numpy(vector).float(), unit="standard deviation", name=name, model=model
    )
