"""`zsem train`: from a folder of images to a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report
from zsem.training.images import ImageOptions
from zsem.training.presets import PRESETS, Preset
from zsem.values.errors import ZsemError

MINUTES = 60.0
"""How long to train where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a diffusion autoencoder on a folder or archive of images, and on nothing else.

    RUN then holds the model, a log (metrics.jsonl), checkpoints and pictures. Ctrl-C saves and leaves; --resume goes
    on. The flags with dots are the preset's settings, shown with the values of the --preset that is given.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """folder, archive (tar, zip) or table (Parquet, npz, idx) of images"""
    out: Annotated[str, arg(metavar="RUN")]
    """folder for the model and its history"""
    preset: Annotated[str, arg(metavar="{" + ",".join(PRESETS) + "}")] = "tiny"
    """settings to begin with: nano (32 px) takes minutes on a CPU, tiny (64 px) an hour"""
    size: int | None = None
    """side of the images in pixels, in place of the preset's"""
    minutes: float | None = None
    """how long to train, over all resumes; 60 where neither this nor --iterations is given"""
    iterations: int | None = None
    """how long to train, over all resumes"""
    resume: FlagCreatePairsOff[bool] = False
    """go on with the training that RUN holds, with its own settings"""
    init: Annotated[str | None, arg(metavar="MODEL")] = None
    """start from the weights and the configuration of this model"""
    snapshots: Annotated[tuple[float, ...], arg(metavar="[MINUTES ...]")] = ()
    """minutes after which a copy of the model is kept in RUN/snapshots"""
    limit: int | None = None
    """only so many images, evenly spaced over the splits"""
    reading: Annotated[FlagCreatePairsOff[ImageOptions], arg(name="")] = dataclasses.field(default_factory=ImageOptions)
    settings: Annotated[Preset, arg(name="")] = dataclasses.field(default_factory=lambda: PRESETS["tiny"])

    @classmethod
    def parse(cls, args: Sequence[str], *, prog: str) -> Train:
        settings = dataclasses.field(default=PRESETS[chosen_preset(args)])
        kind = dataclasses.make_dataclass(
            cls.__name__,
            [("settings", Annotated[Preset, arg(name="")], settings)],
            bases=(cls,),
            namespace={"__doc__": cls.__doc__},
            frozen=True,
            kw_only=True,
        )
        return tyro.cli(kind, args=args, prog=prog)

    def run(self) -> Report:
        from zsem import api

        minutes = self.minutes
        if minutes is not None and self.iterations is not None:
            raise ZsemError("say how long to train in --minutes or in --iterations, not in both")
        for name, value in (("--minutes", minutes), ("--iterations", self.iterations), ("--limit", self.limit)):
            if value is not None and value <= 0:
                raise ZsemError(f"{name} must be above 0, not {value:g}")
        if minutes is None and self.iterations is None:
            if self.resume:
                raise ZsemError("say up to how many --minutes or --iterations in all to go on with the training")
            minutes = MINUTES
        model = api.train(
            self.data,
            self.out,
            preset=self.settings,
            size=self.size,
            reading=self.reading,
            minutes=minutes,
            iterations=self.iterations,
            resume=self.resume,
            init=self.init,
            snapshots=self.snapshots,
            limit=self.limit,
        )
        history = model.history
        figures = {"out": self.out, **history}
        return Report(
            figures=figures,
            notes=[
                f"{self.out} holds a model of {history['iterations']} iterations, {history['minutes']} minutes; "
                f"`zsem reconstruct {self.out} {self.data} --split val --out DIR` shows what it can do"
            ],
        )


def chosen_preset(args: Sequence[str]) -> str:
    """The value of --preset among the arguments, read ahead because it decides the defaults of all other settings."""
    name = "tiny"
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if word == "--preset":
            name = following
        elif word.startswith("--preset="):
            name = word.partition("=")[2]
    if name not in PRESETS:
        raise ZsemError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return name
