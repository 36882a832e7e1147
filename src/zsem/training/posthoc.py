"""Averages of any length, chosen after the training: from snapshots of a few (EDM2, 2312.02696, section 3, appendix C).

Training keeps snapshots of its averages in RUN/averages, evenly spaced and no more than asked, in float16. Each is a
weighted sum of all weights so far, whose profile over time is known in closed form. An average of another length is the
combination of snapshots whose profile comes nearest to the wanted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from zsem.training import checkpoint
from zsem.training.ema import power_exponent
from zsem.values.errors import ZsemError
from zsem.values.files import read_tensors, write_whole

FOLDER = "averages"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One average at one iteration: where its tensors are, and what stands before their names there."""

    iteration: int
    sigma_rel: float
    path: Path
    prefix: str = ""


def stride(iteration: int, keep: int) -> int:
    """Iterations between two snapshots when `iteration` is reached: the least power of two that needs at most `keep`.

    A function of the iteration alone, so that a resumed training has the same snapshots.
    """
    step = 1
    while iteration > keep * step:
        step *= 2
    return step


def due(iteration: int, keep: int) -> bool:
    """Whether a snapshot is taken after `iteration`."""
    return keep > 0 and iteration % stride(iteration, keep) == 0


def write(run: Path, iteration: int, averages: Mapping[float, nn.Module], keep: int) -> None:
    """Write a snapshot of the parameters of `averages` (by sigma_rel) and drop those that are too many now."""
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{sigma_rel}/{name}": parameter.detach().to("cpu", torch.float16).contiguous()
        for sigma_rel, average in averages.items()
        for name, parameter in average.named_parameters()
    }
    write_whole(folder / f"{iteration:08d}.safetensors", safetensors.torch.save(tensors))
    for path in snapshots(run):
        if int(path.stem) % stride(iteration, keep):
            path.unlink()


def snapshots(run: Path) -> list[Path]:
    """The snapshots of a run, oldest first."""
    return sorted((run / FOLDER).glob("[0-9]*.safetensors"))


def trim(run: Path, iteration: int) -> None:
    """Drop snapshots after `iteration`, from which training goes on: it will write them again."""
    for path in snapshots(run):
        if int(path.stem) > iteration:
            path.unlink()


def sources(run: Path) -> list[Source]:
    """The averages that a run has kept, those of its newest checkpoint last.

    Raises ZsemError where there is no checkpoint.
    """
    checkpoints = checkpoint.complete(run / "checkpoints")
    if not checkpoints:
        raise ZsemError(f"{run} has no checkpoint, which the averages of other lengths are made from")
    newest = checkpoints[-1]
    last = [
        Source(iteration=int(newest.name), sigma_rel=float(path.stem.removeprefix(checkpoint.AVERAGE)), path=path)
        for path in sorted(newest.glob(f"{checkpoint.AVERAGE}*.safetensors"))
    ]
    last = [source for source in last if source.sigma_rel > 0]  # one of width 0 is no average
    if not last:
        raise ZsemError(f"{run} kept the last weights alone (ema_width 0), and averages are not made from those")
    widths = [source.sigma_rel for source in last]
    earlier = [
        Source(iteration=int(path.stem), sigma_rel=width, path=path, prefix=f"{width}/")
        for path in snapshots(run)
        if int(path.stem) < int(newest.name)
        for width in widths
    ]
    return [*earlier, *last]


def overlap(t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """Inner products of profiles p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t] (EDM2, eq. 153)."""
    power = gamma_a + gamma_b + 1
    logarithm = power * np.log(np.minimum(t_a, t_b)) - (gamma_a + 1) * np.log(t_a) - (gamma_b + 1) * np.log(t_b)
    return (gamma_a + 1) * (gamma_b + 1) / power * np.exp(logarithm)


def combination(kept: list[Source], sigma_rel: float) -> tuple[np.ndarray, float]:
    """The factor of each average whose sum is nearest to the average of `sigma_rel` at the last iteration.

    The least-squares fit of profiles (EDM2, appendix C.3), but with factors that sum to one as an average's must: free
    factors lose a few per cent of the weights where the wanted average reaches back before the first snapshot.
    Returns the factors and the distance of the profiles relative to the wanted one's norm.
    Raises ValueError where no power function has that width.
    """
    end, n = kept[-1].iteration, len(kept)
    t = np.array([source.iteration / end for source in kept])
    gamma = np.array([power_exponent(source.sigma_rel) for source in kept])
    one, wanted = np.ones(1), np.array([power_exponent(sigma_rel)])
    products = overlap(t[:, None], gamma[:, None], t[None], gamma[None])
    with_wanted, norm = overlap(t, gamma, one, wanted), overlap(one, wanted, one, wanted)[0]
    system = np.block([[products, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    factors = np.linalg.lstsq(system, np.append(with_wanted, 1.0), rcond=None)[0][:n]
    squared = norm - 2 * factors @ with_wanted + factors @ products @ factors
    return factors, float(np.sqrt(max(squared, 0.0) / norm))


def reconstruct(kept: list[Source], sigma_rel: float, like: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """Parameters averaged over the relative width `sigma_rel`, float32 by name, and the distance of the profiles.

    like: the parameters that are wanted, by name, of the right shapes.
    Raises ZsemError where a file is missing, damaged or another model's.
    """
    factors, distance = combination(kept, sigma_rel)
    total = {name: torch.zeros(parameter.shape) for name, parameter in like.items()}
    for path in dict.fromkeys(source.path for source in kept):
        tensors = read_tensors(path, "choose a width from another run, or train again")
        for source, factor in zip(kept, factors, strict=True):
            if source.path != path:
                continue
            for name, whole in total.items():
                tensor = tensors.get(source.prefix + name)
                if tensor is None or tensor.shape != whole.shape:
                    raise ZsemError(
                        f"{path} does not fit the run's model: {source.prefix}{name} is not as it should be"
                    )
                whole.add_(tensor.float(), alpha=float(factor))
    return total, distance
