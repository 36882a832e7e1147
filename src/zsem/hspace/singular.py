"""Singular vectors of linear maps that are known by what they do: a Jacobian by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from zsem.values import draws

TOLERANCE = 1e-3
"""Of the residual: networks compute in float32, whose rounding alone is about 1e-6."""
SPARE = 2
"""Vectors beyond those that are wanted, which make the wanted ones converge sooner."""


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """A linear map J by its products.

    shape: of the vectors v that it maps.
    push: v -> J v, of any shape. pull: u, of that shape -> J^T u, of `shape`.
    """

    shape: tuple[int, ...]
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """The largest singular values of a map and what belongs to them.

    sigma: float64, the largest first, [k]. right: vectors of length 1, float64, [k, *shape].
    residual: max |J^T u - sigma v| / sigma_0; J v = sigma u holds by construction.
    products: how often the map was multiplied with a vector, pushed and pulled alike.
    """

    sigma: Float[Tensor, " k"]
    right: Float[Tensor, "k ..."]
    residual: float
    products: int


def jacobian_of(f: Callable[[Tensor], Tensor], at: Tensor) -> LinearMap:
    """The Jacobian of f at a point, by reverse-mode (VJP) and forward-mode (JVP) differentiation.

    f must be made of operations that both modes know; attention falls back to the kernel that does.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward mode, and on CPUs no second one to choose
        backward = torch.func.vjp(f, at)[1]

    def push(v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(f, (at,), (v.to(at),))[1].detach()

    def pull(u: Tensor) -> Tensor:
        return backward(u.to(at))[0].detach()

    return LinearMap(shape=tuple(at.shape), push=push, pull=pull)


def within_null_space(linear: LinearMap, rest: Float[Tensor, "r ..."]) -> LinearMap:
    """The map of what is orthogonal to `rest`, orthonormal vectors of its shape: J (I - R^T R)."""
    rows = rest.flatten(1)

    def project(v: Tensor) -> Tensor:
        flat = v.to(rows).flatten()
        return (flat - rows.T @ (rows @ flat)).view(linear.shape)

    return LinearMap(shape=linear.shape, push=lambda v: linear.push(project(v)), pull=lambda u: project(linear.pull(u)))


def top_triplets(
    linear: LinearMap,
    number: int,
    *,
    tolerance: float = TOLERANCE,
    iterations: int = 50,
    seed: int = 0,
) -> Triplets:
    """The `number` largest singular triplets of a map, by subspace iteration that keeps its subspaces (block Krylov).

    What plain subspace iteration finds with the last block alone is sought in all blocks so far, which takes a fraction
    of the products. Every iteration costs a push and a pull for each vector, of which there are SPARE more than wanted.
    tolerance: of the residual, at which it ends; else it ends after `iterations`, and the residual says how well.
    seed: of the start; the result depends on it within the tolerance alone. Signs: the largest number is positive.
    Raises ValueError for fewer than one, or more than a vector or its image has numbers.
    """
    size = int(torch.Size(linear.shape).numel())
    if not 1 <= number <= size:  # before all of its products are taken
        raise ValueError(f"a map of {size} numbers has no {number} singular values")
    width, products = min(number + SPARE, size), 0
    start = draws.normal([(seed, i) for i in range(width)], (size,)).double()
    block = torch.linalg.qr(start.T).Q
    basis, images = block[:, :0], []
    while True:
        pushed = [linear.push(v.view(linear.shape)) for v in block.T]
        if number > pushed[0].numel():
            raise ValueError(f"a map of {size} to {pushed[0].numel()} numbers has no {number} singular values")
        basis = torch.cat([basis, block], dim=1)
        images += [_flat(image) for image in pushed]
        left, sigma, turn = torch.linalg.svd(torch.stack(images, dim=1), full_matrices=False)
        right = basis @ turn.T
        back = torch.stack([_flat(linear.pull(u.view(pushed[0].shape))) for u in left[:, :width].T], dim=1)
        products += block.shape[1] + back.shape[1]
        iterations -= 1
        missing = (back - right[:, :width] * sigma[:width]).norm(dim=0)[:number].max()
        residual = float(missing / sigma[0]) if sigma[0] > 0 else 0.0
        block = _beyond(basis, back)
        if residual <= tolerance or iterations <= 0 or not block.shape[1]:
            break
    found = right.T[:number]
    signs = found.gather(1, found.abs().argmax(dim=1, keepdim=True)).sign()
    return Triplets(
        sigma=sigma[:number], right=(found * signs).view(number, *linear.shape), residual=residual, products=products
    )


def _beyond(basis: Float[Tensor, "d m"], vectors: Float[Tensor, "d k"]) -> Float[Tensor, "d j"]:
    """An orthonormal basis of what the vectors have beyond the span of a basis; no columns where that is nothing."""
    least = float(vectors.norm()) * torch.finfo(vectors.dtype).eps
    for _ in range(2):  # the second time for what rounding has left
        vectors = vectors - basis @ (basis.T @ vectors)
    left, sizes, _ = torch.linalg.svd(vectors, full_matrices=False)
    return left[:, sizes > least][:, : basis.shape[0] - basis.shape[1]]


def _flat(x: Tensor) -> Float[Tensor, " n"]:
    """As one vector, float64 on the CPU, where small decompositions are made."""
    return x.detach().flatten().double().cpu()
