"""`zsem ema`: averages of other lengths, after the training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report


@dataclass(frozen=True, kw_only=True)
class Ema(Command):
    """Average a run's weights over another length than its model's, from the snapshots that the training has kept.

    Without --sigma-rel several lengths are tried, and the one with the least loss on held-out images is taken.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a training"""
    sigma_rel: float | None = None
    """relative width of the average, between 0 and 0.28; the model of a run has 0.1 where nothing was said"""
    data: Annotated[str | None, arg(metavar="DATA")] = None
    """the images of the training, where they are no longer where they were"""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """folder for the averaged model; RUN/ema/WIDTH where nothing is said"""

    def run(self) -> Report:
        from zsem import api

        model = api.choose_average(
            self.model, sigma_rel=self.sigma_rel, data=self.data, out=self.out, say=lambda _: None
        )
        about = model.history["ema"]
        out = Path(self.model) / "ema" / f"{about['sigma_rel']:g}" if self.out is None else Path(self.out)
        rows = [
            {
                "sigma_rel": width,
                "validation loss": f"{figures['loss']:.5f}",
                "distance of profile": f"{figures['distance']:.1%}",
            }
            for width, figures in about["tried"].items()
        ]
        return Report(
            figures={"out": str(out), **about},
            rows=rows,
            notes=[f"{out} holds the model averaged with sigma_rel {about['sigma_rel']:g}"],
        )
