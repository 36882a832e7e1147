"""Principal components of h: directions that have no name yet (Haas et al., 2303.11073, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from zsem.hspace.collect import Collected
from zsem.semantics.directions import check_number, upright
from zsem.semantics.probes import to_float64
from zsem.values.direction import Direction
from zsem.values.errors import ZsemError


def pca(collected: Collected, number: int, *, joint: bool = True) -> list[Direction]:
    """The directions in which h varies most over images, first the most: sigma_j u_j at every timestep.

    An amount of 1 is one standard deviation over images. Signs are such that the largest number is positive (per
    timestep: at the noisiest). Every h is read one timestep at a time, twice, and the decomposition is that of a matrix
    as large as there are images (the kernel trick), so that h may lie in a file.
    joint: one decomposition of the h of all timesteps side by side; else one per timestep, signs turned so that images
        with much of a component at one timestep have much of it at the next.
    Raises ZsemError for fewer than one, or more than there are images but one.
    """
    check_number(number, len(collected) - 1)
    if joint:
        total = np.zeros((len(collected), len(collected)))
        for t in collected.timesteps:
            total += _gram(_centred(collected, t))
        weights = _principal(total, number)
        by_step = [weights] * len(collected.timesteps)
    else:
        by_step = _turned([_principal(_gram(_centred(collected, t)), number) for t in collected.timesteps])
    # X^T w = s u, and a standard deviation is s / sqrt(n)
    parts = [
        (weights.T @ _centred(collected, t)) / np.sqrt(len(collected))
        for weights, t in zip(by_step, collected.timesteps, strict=True)
    ]
    shape = (len(parts), *collected.h.shape[2:])
    found = []
    for j in range(number):
        vector = np.stack([part[j] for part in parts])
        seen = vector if joint else vector[0]
        flat = seen.ravel()
        vector = vector * (1 if np.array_equal(upright(flat), flat) else -1)
        found.append(Direction(
            space="h", vector=torch.from_numpy(vector.reshape(shape)).float(), timesteps=collected.timesteps,
            unit="standard deviation", name=f"pca_{j}", model=collected.model,
        ))  # fmt: skip
    return found


def _centred(collected: Collected, timestep: float) -> Float[np.ndarray, "n d"]:
    """h at a timestep as rows, without their mean, float64."""
    h = to_float64(collected.at(timestep)).reshape(len(collected), -1)
    return h - h.mean(0)


def _gram(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    return x @ x.T


def _principal(gram: Float[np.ndarray, "n n"], number: int) -> Float[np.ndarray, "n k"]:
    """The left singular vectors of the centred codes, of length 1, first that of the largest value."""
    values, vectors = np.linalg.eigh(gram)
    if values[-number] <= values[-1] * len(gram) * np.finfo(np.float64).eps:
        raise ZsemError(f"h of these images does not vary in {number} directions: ask for fewer, or give more images")
    return vectors[:, ::-1][:, :number]


def _turned(weights: Sequence[Float[np.ndarray, "n k"]]) -> list[Float[np.ndarray, "n k"]]:
    """Each component's scores of the images turned to agree with those at the timestep before."""
    turned = [weights[0]]
    for mine in weights[1:]:
        agree = np.sign(np.einsum("nk,nk->k", turned[-1], mine))
        turned.append(mine * np.where(agree == 0, 1, agree))
    return turned
