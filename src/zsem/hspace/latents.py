"""Codes of images that an edit is learned on."""

from __future__ import annotations

import torch

from zsem.diffusion.denoiser import bind
from zsem.diffusion.schedule import TimeGrid
from zsem.diffusion.solvers import ddim, last
from zsem.hspace.collect import batches, of_rows
from zsem.hspace.editable import Editable, condition_for
from zsem.hspace.theorem import published_levels
from zsem.models.diffusion import Classes
from zsem.models.imaging import Progress, evaluation
from zsem.models.inputs import Images
from zsem.values.codes import Codes, Noise
from zsem.values.errors import ZsemError

EDITED_FROM = 3 / 256
"""sigma / alpha where edits end, for each pixel of an image's side: about what the paper has at 256 px."""


def invert_as_published(
    model: Editable,
    images: Images,
    *,
    classes: Classes = None,
    steps: int = 40,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Codes:
    """x_T of images by the DDIM inversion of Asyrp's code: `steps` levels even in t, the first of them taken for clean.

    One evaluation of the network fewer than levels. Other arguments and errors as for `invert`; ZsemError
    also for a number of steps that there is not.
    """
    if not 2 <= steps <= model.schedule.timesteps:
        raise ZsemError(f"the published process takes 2 to {model.schedule.timesteps} steps, not {steps}")
    inputs = model.read(images)
    t = published_levels(steps, model.schedule.timesteps)
    grid = TimeGrid.from_levels(model.schedule, t=t)
    zs, noises = [], []
    for rows in batches(len(inputs), batch_size):
        part = inputs[rows]
        with evaluation(model):
            x0 = model.pad(part.part(slice(None)).to(model.device))
            cond = condition_for(model, x0, of_rows(classes, rows))
            noises.append(Noise(x_T=last(ddim(bind(model.denoiser, cond), x0, grid.reversed()))[0].float().cpu()))
            zs.append(torch.empty(len(x0), 0) if cond.z is None else cond.z.cpu())
        if progress is not None:
            progress(rows.stop, len(inputs))
    return Codes(
        z=torch.cat(zs), noise=Noise.cat(noises), codec="ddim", timesteps=tuple(t.tolist()), shape=model.image_shape,
        model=model.stamp, backend=model.backend, paths=inputs.paths, sha256=inputs.sha256,
    )  # fmt: skip


def usual_t_edit(model: Editable) -> int:
    """The timestep where edits end when nothing was measured: sigma / alpha = 3 at 256 px, less for smaller images.

    Noise hides structure of its own size: the same of an image half as large takes half as much.
    """
    u = EDITED_FROM * min(model.image_shape[1:])
    return round(float(model.schedule.timestep_at(torch.tensor(u, dtype=torch.float64))))
