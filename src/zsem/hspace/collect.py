"""The bottleneck h of many images at many noise levels, from real images or from samples."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Interval
from zsem.diffusion.schedule import Spacing, TimeGrid
from zsem.hspace.editable import Editable, invert
from zsem.hspace.engine import Recorder
from zsem.models.diffusion import Classes, DiffusionModel
from zsem.models.imaging import STEPS, Progress
from zsem.models.inputs import Images, Inputs
from zsem.models.walking import Walking
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError
from zsem.values.prediction import Denoiser


@dataclass(frozen=True, kw_only=True)
class Collected:
    """h of n images at the noise levels of one grid.

    h: float32 in memory, or float16 in a file; [n, steps, c, h, w], with h = w = 1 where it was pooled.
    timesteps: of the levels, the noisiest first.
    model: stamp of the model.
    """

    h: Float[np.ndarray, "n s c h w"]
    timesteps: tuple[float, ...]
    model: str

    def __len__(self) -> int:
        return len(self.h)

    def at(self, timestep: float | int) -> Float[np.ndarray, "n c h w"]:
        """h at one of the timesteps, float32. Raises ValueError where it was not collected there."""
        return np.asarray(self.h[:, self.timesteps.index(float(timestep))], dtype=np.float32)


def collect(
    model: Editable,
    images: Images,
    *,
    classes: Classes = None,
    steps: int = STEPS,
    interval: Interval | None = None,
    pooled: bool = False,
    file: str | Path | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> tuple[Collected, Codes]:
    """h of images on their way to noise with the exact codec, and the codes at its end, which decode to the images.

    images: as for `encode` and `invert`. classes: of a model that is conditional on them.
    steps: noise levels, those of `model.grid(steps)` without the clean image; one evaluation of the network each, and
        one more.
    interval: first and last timestep, both inclusive, of the levels to keep; all where None.
    pooled: keep the mean over the map alone, which takes h * w times less room.
    file: a .npy file to keep h in, as float16, in place of the memory; it appears whole or not at all.
    progress: called with (images done, images in all).
    Raises ZsemError where no level is in the interval, and as `encode` and `invert` do.
    """
    inputs = model.read(images)
    levels = _levels(model.grid(steps), interval)
    codes = []
    with _room(model, len(inputs), levels, pooled, file) as h:
        for rows in batches(len(inputs), batch_size):
            recorder = Recorder(model.denoiser, pooled=pooled)
            codes.append(invert_through(model, inputs[rows], of_rows(classes, rows), recorder, steps=steps))
            h[rows] = _stacked(recorder, levels)
            if progress is not None:
                progress(rows.stop, len(inputs))
    kept = h if file is None else np.load(file, mmap_mode="r")
    return Collected(h=kept, timesteps=levels, model=model.stamp), Codes.cat(codes)


def collect_samples(
    model: DiffusionModel,
    number: int,
    *,
    classes: Classes = None,
    seed: int = 0,
    steps: int = 20,
    spacing: Spacing = "logsnr",
    interval: Interval | None = None,
    pooled: bool = False,
    file: str | Path | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[Collected, Float[Tensor, "n c h w"]]:
    """h of samples on their way from noise, and the images at its end, float32, nominally in [-1, 1].

    Both are functions of (seed, position) and the settings alone; they need no second inversion to be judged.
    settings: of `DiffusionModel.sample`, e.g. solver and eta; without guidance, which evaluates the network twice.
    Other arguments as in `collect`. Raises ZsemError as `sample` does.
    """
    if settings.get("guidance_scale", 1) != 1:
        raise ZsemError("h is collected from samples without classifier-free guidance: leave guidance_scale at 1")
    walking = Walking(steps=steps, spacing=spacing, cleanest=settings.get("cleanest", 0))
    levels = _levels(walking.grid(model.schedule), interval)
    images = []
    with _room(model, number, levels, pooled, file) as h:
        for rows in batches(number, batch_size):
            recorder = Recorder(model.denoiser, pooled=pooled)
            images.append(model.sample(
                rows.stop - rows.start, first=rows.start, classes=of_rows(classes, rows), seed=seed, steps=steps,
                spacing=spacing, batch_size=batch_size, denoiser=recorder, **settings,
            ))  # fmt: skip
            h[rows] = _stacked(recorder, levels)
            if progress is not None:
                progress(rows.stop, number)
    kept = h if file is None else np.load(file, mmap_mode="r")
    return Collected(h=kept, timesteps=levels, model=model.stamp), torch.cat(images)


def invert_through(
    model: Editable, inputs: Inputs, classes: Classes, denoiser: Denoiser, *, codec: str = "exact", steps: int = STEPS
) -> Codes:
    """Codes of one batch of images, found with another denoiser in place of the model's."""
    told: dict[str, Any] = {"codec": codec, "steps": steps, "batch_size": len(inputs)}
    told["steer"] = lambda cond, _: bind(denoiser, cond)
    return invert(model, inputs, classes=classes, **told)


def _levels(grid: TimeGrid, interval: Interval | None) -> tuple[float, ...]:
    """Timesteps of a grid without the clean image, within the interval."""
    levels = grid.t[:-1].tolist()
    kept = tuple(t for t in levels if interval is None or interval[0] <= t <= interval[1])
    if not kept:
        raise ZsemError(f"no noise level lies in the interval {interval}: widen it, or take more steps")
    return kept


def batches(number: int, batch_size: int) -> Iterator[slice]:
    """Consecutive rows of `number` images."""
    for start in range(0, number, batch_size):
        yield slice(start, min(start + batch_size, number))


def of_rows(classes: Classes, rows: slice) -> Classes:
    """The classes of some images, where they are given one each."""
    return classes if classes is None or isinstance(classes, int) else classes[rows]


def _stacked(recorder: Recorder, levels: tuple[float, ...]) -> Float[np.ndarray, "b s c h w"]:
    return torch.stack([recorder.h[t] for t in levels], dim=1).numpy()


@contextmanager
def _room(
    model: Editable, number: int, levels: tuple[float, ...], pooled: bool, file: str | Path | None
) -> Iterator[Float[np.ndarray, "n s c h w"]]:
    """An array to be filled: in memory, or in a file that appears when it is."""
    channels, *size = model.bottleneck_shape
    shape = (number, len(levels), channels, *((1, 1) if pooled else size))
    if file is None:
        yield np.empty(shape, dtype=np.float32)
        return
    path = Path(file)
    if path.suffix != ".npy":
        raise ZsemError(f"{path} is to hold an array of numpy: let its name end in .npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        filled = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        yield filled
        filled.flush()
        temporary.replace(path)
    except OSError as error:
        raise ZsemError(f"could not write {path} ({error.strerror}): free some room and repeat") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
