"""Figures of the h-space: Theorem 1 and the curves of intervals. Drawn with matplotlib, which is optional."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zsem.diffusion.schedule import TimeGrid
from zsem.hspace.intervals import Curves, Phases
from zsem.hspace.theorem import coefficients
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def theorem_figure(grid: TimeGrid, etas: tuple[float | int, ...] = (0, 1)) -> Figure:
    """The coefficients of Theorem 1 over t: of a change of eps in x0 alone, and in both halves, for every eta."""
    figure, axes = _blank()
    t = grid.t[:-1].tolist()
    alone = coefficients(grid).asymmetric.abs()  # whatever eta is
    axes.plot(t, alone.tolist(), color="black", label="in x0 alone")
    for eta in etas:
        axes.plot(t, coefficients(grid, eta).symmetric.abs().tolist(), label=f"in both, eta = {eta:g}")
    axes.set(xlabel="timestep t", ylabel="|coefficient| of the change of eps", yscale="log")
    axes.set_title(f"What a step keeps of a change of eps, {grid.steps} steps")
    axes.legend()
    return figure


def intervals_figure(curves: Curves, chosen: Phases | None = None) -> Figure:
    """Both curves over t with their deviations over images, and where the phases lie."""
    figure, axes = _blank()
    parts: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
        "predicted x0": (curves.x0, curves.x0_std), "x_t": (curves.x_t, curves.x_t_std),
    }  # fmt: skip
    for name, (mean, deviation) in parts.items():
        (line,) = axes.plot(curves.timesteps, mean, label=f"image to {name}")
        if deviation:
            low, high = ([m + sign * d for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1))
            axes.fill_between(curves.timesteps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if chosen is not None:
        for name, t, colour in (("t_edit", chosen.t_edit, "C0"), ("t_boost", chosen.t_boost, "C1")):
            axes.axvline(t, color=colour, linestyle="--", label=f"{name} = {t:g}")
    axes.set(xlabel="timestep t", ylabel=f"distance ({curves.distance})", ylim=(0, None))
    axes.set_title(f"Means over {curves.images} images of {curves.image_size} px")
    axes.legend()
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    write_whole(path, data.getvalue())
    return path


def _blank() -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ZsemError("figures are drawn with matplotlib: pip install 'zsem[metrics]'") from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    return figure, figure.subplots()
