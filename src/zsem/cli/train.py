"""`zsem train`: from a folder of images to a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report
from zsem.cli.settings import parse_with, value_of
from zsem.training.images import ImageOptions
from zsem.training.log import clock
from zsem.training.presets import PRESETS, Preset, find_preset
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.training.estimate import Estimate

MINUTES = 60.0
"""How long to train where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a diffusion autoencoder, or another model, on a folder or archive of images, and on nothing else.

    RUN then holds the model, a log (metrics.jsonl), checkpoints and pictures. Ctrl-C saves and leaves; --resume goes
    on. The flags with dots are the preset's settings, shown with the values of the --preset that is given; settings of
    one's own are a file, see `zsem presets`.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """folder, archive (tar, zip) or table (Parquet, npz, idx) of images"""
    out: Annotated[str | None, arg(metavar="RUN")] = None
    """folder for the model and its history; --estimate needs none"""
    model: Annotated[str | None, arg(metavar="{" + ",".join(PRESETS) + "}")] = None
    """what to train; an autoencoder where neither this nor a preset's file says otherwise"""
    preset: Annotated[str, arg(metavar="PRESET")] = "tiny"
    """settings to begin with, a name or a file; nano (32 px) takes minutes on a CPU, tiny (64 px) an hour,
    `zsem presets` lists all"""
    estimate: FlagCreatePairsOff[bool] = False
    """run a few iterations only, and tell time, memory and room on the disk for the whole"""
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
    tensorboard: FlagCreatePairsOff[bool] = False
    """write the figures for TensorBoard to RUN/tensorboard too"""
    reading: Annotated[FlagCreatePairsOff[ImageOptions], arg(name="")] = dataclasses.field(default_factory=ImageOptions)
    settings: Annotated[Preset, arg(name="")] = dataclasses.field(default_factory=lambda: find_preset("tiny"))

    @classmethod
    def parse(cls, args: Sequence[str], *, prog: str) -> Train:
        return parse_with(cls, chosen_preset(args), args, prog=prog)

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
        if self.estimate:
            if self.resume:
                raise ZsemError("--estimate measures a new training: leave out --resume")
            measured = api.estimate(
                self.data, preset=self.settings, size=self.size, reading=self.reading, init=self.init, limit=self.limit
            )
            return estimate_report(measured, minutes, self.iterations, self.settings.recommended_images)
        if self.out is None:
            raise ZsemError("these are missing: --out RUN (`zsem train --help` explains)")
        model = api.train(
            self.data,
            self.out,
            kind=self.model,
            preset=self.settings,
            size=self.size,
            reading=self.reading,
            minutes=minutes,
            iterations=self.iterations,
            resume=self.resume,
            init=self.init,
            snapshots=self.snapshots,
            limit=self.limit,
            tensorboard=self.tensorboard,
        )
        history = model.history
        figures = {"out": self.out, **history}
        return Report(
            figures=figures,
            notes=[
                f"{self.out} holds a model of {history['iterations']} iterations, {history['minutes']} minutes; "
                f"{what_next(model.kind, self.out, self.data)}"
            ],
        )


def what_next(kind: str, run: str, data: str) -> str:
    """What to do with a model that has been trained."""
    if kind == "classifier":
        return f"`zsem sample MODEL --classifier {run} --classifier-scale 2 --out DIR` guides a diffusion model with it"
    if kind == "autoencoder":
        return f"`zsem reconstruct {run} {data} --split val --out DIR` shows what it can do"
    return f"`zsem sample {run} -n 64 --out DIR` makes images with it"


def estimate_report(
    measured: Estimate, minutes: float | None, iterations: int | None, recommended_images: int
) -> Report:
    """What was measured, for the length that was asked for and for the recommended one."""
    seconds = measured.seconds((iterations or 0) * measured.batch_size) if minutes is None else 60 * minutes
    number = measured.iterations(seconds) if iterations is None else iterations
    whole = {"seconds": seconds, "iterations": number, "images": number * measured.batch_size}
    recommended = {
        "seconds": measured.seconds(recommended_images),
        "iterations": -(-recommended_images // measured.batch_size),
        "images": recommended_images,
    }
    figures: dict[str, Any] = {**dataclasses.asdict(measured), "whole": whole, "recommended": recommended}
    memory = "?" if measured.peak_memory is None else size_text(measured.peak_memory)
    texts = {
        "parameters": f"{measured.parameters:,}",
        "speed": f"{measured.images_per_second:.1f} images/s, {measured.batch_size} images per iteration",
        "the training": length_text(whole),
        "recommended": length_text(recommended),
        "memory at most": memory,
        "checkpoint": f"{size_text(measured.checkpoint_size)}; all of RUN {size_text(measured.run_size)}",
    }
    return Report(figures=figures, rows=[{"estimate": name, "": text} for name, text in texts.items()])


def length_text(length: dict[str, Any]) -> str:
    """How long a training is, in time, iterations and images."""
    time = clock(length["seconds"])
    return f"{time} (h:mm:ss), {length['iterations']:,} iterations, {length['images']:,} images"


def size_text(size: int) -> str:
    """Bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def chosen_preset(args: Sequence[str]) -> Preset:
    """The preset that the arguments name, read ahead: it decides which other settings there are, and their defaults."""
    return find_preset(value_of("--preset", args) or "tiny", value_of("--model", args))
