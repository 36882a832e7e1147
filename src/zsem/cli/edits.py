"""`zsem edit` and `zsem interpolate`: pictures from codes that were moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report, named_numbers, progress
from zsem.cli.directions import changed, names_in
from zsem.cli.images import (
    SHOWN,
    SHOWN_PIXELS,
    Choice,
    chunks,
    file_stems,
    open_autoencoder,
    open_editable,
    open_images,
    save_images,
    save_picture,
)
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor

    from zsem.data.images import ImageSet
    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.models.imaging import ImageModel
    from zsem.models.shift import NamedShift

    Terms = list[tuple[float, NamedShift]]

CHUNK = 64
"""Images between two rounds of writing files, to bound the memory."""
SHEET = "edit.png"
Z_ALONE = ("keep", "exact", "clamp", "semantics", "mask", "scale", "rescale", "interval", "keep_noise")
"""Options that mean something for edits of codes alone, and of the bottleneck alone."""
HSPACE_ALONE = ("mode", "gain", "t_edit", "t_boost", "reach", "content", "gamma")
STRIP = 9
"""Frames in one row of a strip at most."""


@dataclass(frozen=True, kw_only=True)
class Edited:
    """What became of some images: in [-1, 1], [n, c, h, w]; masks [n, h, w] or None; scores by name, [n].

    reconstructions: decoded without the edit; None where they are not asked for.
    """

    originals: Tensor
    reconstructions: Tensor | None
    results: Tensor
    masks: Tensor | None
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How codes are moved, and how the result is read: z -> new z, z -> scores by name, and what was asked for."""

    move: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor], Mapping[str, Tensor]]
    requested: Mapping[str, float]
    unit: str


@dataclass(frozen=True, kw_only=True)
class Edit(Command):
    """Change attributes of images, and nothing else as far as that goes.

    With --set, or directions in z, the semantic codes of an autoencoder are changed; with directions in h the
    bottleneck of any diffusion model at every step, and with those in x the noisy image at one of them.

    Writes the edited images, in the depth of the originals, and edit.png: originals, edited ones, the difference on
    grey, and the masks. Says what the probe reads off the originals and, encoded again, off the edited images.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model, or its name on the Hugging Face hub"""
    images: Annotated[Positional[str], arg(metavar="IMAGES")]
    """folder, archive or file of images"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for the edited images and the picture"""
    set: Annotated[str | None, arg(metavar="NAME=P,..")] = None
    """attributes and the probabilities (or real values) to bring them to, e.g. smile=0.9,hat=0: at least to them, and
    on to where images of that kind lie; what the probe finds more of stays as it is"""
    keep: Annotated[str | None, arg(metavar="NAME,..")] = None
    """attributes that must not change, as far as their probes can tell"""
    exact: FlagCreatePairsOff[bool] = False
    """bring every image to just what --set asks for, neither further nor less, e.g. for a fainter smile"""
    clamp: FlagCreatePairsOff[bool] = False
    """stop at three sigma, where --set asks for codes further away than that, and miss it"""
    semantics: Annotated[str | None, arg(metavar="DIR")] = None
    """where `zsem attributes` wrote what it learned; by default RUN/semantics"""
    direction: Annotated[tuple[str, ...], arg(metavar="FILE[=AMOUNT] ..")] = ()
    """files of directions, in place of --set, e.g. smile.safetensors=1.5 hat.safetensors=-1; all add up"""
    name: str | None = None
    """which of them, where a FILE has several"""
    amount: float = 1.0
    """how far to go where no AMOUNT is given, in the direction's unit; 0 gives the images back"""
    mode: Literal["symmetric", "asymmetric"] = "symmetric"
    """in h: shift both halves of a step, which any number of steps answers alike, or x0 alone (Asyrp as published)"""
    gain: float | None = None
    """in h, symmetric: how far to extrapolate from the plain prediction to that of the shifted h; by default as far as
    asyrp was trained to, else 1. Try 6 with a mean difference"""
    t_edit: int | None = None
    """in h: edit at this timestep and above; by default as RUN/hspace/intervals.json says, or everywhere"""
    t_boost: int | None = None
    """in h, asymmetric: fresh noise below this timestep (quality boosting); by default as that file says, or never"""
    reach: FlagCreatePairsOff[bool] = False
    """with boundaries in h: bring every image to AMOUNT (logits) at the boundary's own timestep, whatever it has"""
    content: Annotated[str | None, arg(metavar="FILE")] = None
    """in place of --direction: image whose content is put into the bottleneck (InjectFusion)"""
    gamma: float = 0.3
    """0..1, how far h is turned towards that of --content"""
    mask: Annotated[str | None, arg(metavar="FILE|auto")] = None
    """picture of where the images may change (white), or auto: where the edit wants to; all else stays exactly"""
    scale: float = 1.0
    """how far to extrapolate from the old code to the new one in every step: 1 = not at all"""
    rescale: float = 0.5
    """0..1, how far the contrast of extrapolated predictions is pulled back"""
    interval: Annotated[tuple[float, float] | None, arg(metavar="FIRST LAST")] = None
    """first and last timestep at which to extrapolate; by default all but the first tenth, 100 1000 of 1000"""
    keep_noise: float = 1.0
    """0..1, how much of the stochastic code to keep: less lets the image change more"""
    full_size: FlagCreatePairsOff[bool] = False
    """put the change back into the images as they were before they were cropped and resized"""
    steps: int = 19
    """noise levels of the codec, and of the edit"""
    seed: int = 0
    """seed of the fresh noise, where not all is kept, or of boosting"""
    split: Choice = "all"
    """which images; val is what training held out, or test where a set has no val"""
    limit: int | None = None
    """only so many images, evenly spaced over the splits"""

    def run(self) -> Report:
        from zsem.cli.hspace_edits import in_bottleneck, read_terms

        self._check()
        terms = read_terms(self.direction, name=self.name, amount=self.amount)
        space = "h" if self.content is not None else terms[0][1].space if terms else "z"
        if wrong := changed(self, HSPACE_ALONE if space == "z" else Z_ALONE):
            raise ZsemError(f"--{wrong[0]} means nothing for directions in {space}: leave it out")
        if space == "z":
            model = open_autoencoder(self.model)
            plan = self._by_directions(model, terms) if terms else self._by_attributes(model)
            change = partial(self._edit, model, plan)
        else:
            model = open_editable(self.model)
            plan, change = in_bottleneck(self, model, terms)
        images = open_images(self.images, model, split=self.split, limit=self.limit)
        stems = file_stems([SHEET, *images.paths], len(images) + 1)[1:]  # none is called as the picture is
        parts: list[Edited] = []
        with progress("editing") as done:
            for rows in chunks(len(images), CHUNK):
                parts.append(change(images.subset(range(len(images))[rows]), rows.start))
                if not self.full_size:
                    save_images(Path(self.out), stems[rows], parts[-1].results, model.config.intensity)
                done(rows.stop, len(images))
        if self.full_size:
            self._place(model, images, stems, parts)
        self._draw(model, parts)
        return self._report(images, plan, parts)

    def _check(self) -> None:
        if sum((self.set is not None, bool(self.direction), self.content is not None)) != 1:
            raise ZsemError("say what to change with either --set smile=0.9 or --direction FILE, or --content FILE")
        if self.direction and (self.keep or self.semantics or self.exact or self.clamp):
            raise ZsemError("--keep, --semantics, --exact and --clamp go with --set: a direction is taken as it is")
        for option, value in (("rescale", self.rescale), ("keep-noise", self.keep_noise)):
            if not 0 <= value <= 1:
                raise ZsemError(f"--{option} must lie in 0..1, not {value:g}")
        out, source = Path(self.out).resolve(), Path(self.images).resolve()
        if out in {source, source.parent if source.is_file() else source}:
            raise ZsemError(f"--out {self.out} holds the images: choose another folder, so that none is overwritten")

    def _by_directions(self, model: DiffusionAutoencoder, terms: Terms) -> Plan:
        import torch

        from zsem.values.direction import Direction

        found = [(amount, one) for amount, one in terms if isinstance(one, Direction)]
        for _, one in found:
            if one.space != "z" or len(one.vector) != model.config.z_dim:
                raise ZsemError(f"{one.name} is no direction of z of length {model.config.z_dim}: find another one")
            if one.model not in {"", model.stamp}:
                raise ZsemError(f"{one.name} belongs to model {one.model}, {self.model} is {model.stamp}")
        mean, std = model.z_mean.cpu(), model.z_std.cpu()

        def scores(z: Tensor) -> Mapping[str, Tensor]:
            classified = [one for _, one in found if one.slope is not None and one.intercept is not None]
            return {one.name: one.logit((z - mean) / std) for one in classified}

        step = torch.zeros_like(std)
        for amount, one in found:
            if amount != 0:
                step = step + amount * one.vector * std
        return Plan(move=lambda z: z + step, scores=scores, requested={}, unit=units(terms))

    def _by_attributes(self, model: DiffusionAutoencoder) -> Plan:
        import torch

        from zsem.models.base import find_model
        from zsem.semantics.attributes import Semantics

        assert self.set is not None
        folder = Path(self.semantics) if self.semantics else find_model(self.model) / "semantics"
        semantics, goals = Semantics.load(folder, model), requested(self.set)
        keep = names_in(self.keep)
        return Plan(
            move=lambda z: semantics.move(z, goals, keep=keep, exact=self.exact, clamp=self.clamp),
            scores=lambda z: {name: torch.from_numpy(semantics.score(z, name)) for name in (*goals, *keep)},
            requested=goals,
            unit="probability",
        )  # fmt: skip

    def _edit(self, model: DiffusionAutoencoder, plan: Plan, images: ImageSet, first: int) -> Edited:
        from zsem.semantics.edits import edit, masks_for

        intensity = model.config.intensity
        codes = model.encode(images, steps=self.steps)
        z = plan.move(codes.z)
        masks = None if self.mask is None else masks_for(model, codes, z, self.mask)
        results = edit(
            model, codes, z, scale=self.scale, rescale=self.rescale, interval=self.interval or "auto",
            keep_noise=self.keep_noise, mask=masks, seed=self.seed, first=first,
        )  # fmt: skip
        again = model.encode(intensity.restore(results), noise=False)
        return Edited(
            originals=intensity.normalise(images.pixels), results=results, masks=masks,
            reconstructions=model.decode(codes) if self.full_size else None,
            before=plan.scores(codes.z), after=plan.scores(again.z),
        )  # fmt: skip

    def _place(self, model: ImageModel, images: ImageSet, stems: list[str], parts: list[Edited]) -> None:
        """Write the photos with the changes in them."""
        from zsem.data.images import load_originals
        from zsem.data.pixels import save_pixels
        from zsem.data.placing import place
        from zsem.data.shaping import centre_box
        from zsem.semantics.edits import read_mask

        for number, photo in load_originals(self.images, images, background=model.config.background):
            part, row = parts[number // CHUNK], number % CHUNK
            assert part.reconstructions is not None
            _, height, width = photo.shape
            box = centre_box(height, width, model.image_shape[1:])
            left, top, right, bottom = box
            mask = None if part.masks is None else part.masks[row]
            if self.mask not in {None, "auto"}:  # as fine as the photo: its small version may spread beyond it
                mask = read_mask(str(self.mask), (bottom - top, right - left))
            whole = place(
                photo, box, part.results[row], part.reconstructions[row], intensity=model.config.intensity, mask=mask
            )
            save_pixels(whole, Path(self.out) / stems[number])

    def _draw(self, model: ImageModel, parts: list[Edited]) -> None:
        import torch

        some = parts[0]
        rows = [some.originals, some.results, (some.results.clamp(-1, 1) - some.originals.clamp(-1, 1)) / 2]
        shown, captions = [model.display(row[:SHOWN]) for row in rows], ["original", "edited", "difference"]
        if some.masks is not None:
            shown.append((255 * some.masks[:SHOWN, None]).to(torch.uint8))
            captions.append("mask")
        save_picture(Path(self.out) / SHEET, shown, captions)

    def _report(self, images: ImageSet, plan: Plan, parts: list[Edited]) -> Report:
        import torch

        before, after = (
            {name: torch.cat([getattr(part, side)[name] for part in parts]) for name in parts[0].before}
            for side in ("before", "after")
        )
        attributes = {
            name: {
                "requested": plan.requested.get(name),
                "before": float(before[name].mean()),
                "achieved": float(after[name].mean()),
            }
            for name in before
        }
        each = [
            {"path": path, "before": {n: float(v[i]) for n, v in before.items()},
             "achieved": {n: float(v[i]) for n, v in after.items()}}
            for i, path in enumerate(images.paths)
        ]  # fmt: skip
        rows = [
            {
                "attribute": name,
                "requested": f"{row['requested']:g}" if name in plan.requested else "-",
                "before": f"{row['before']:.3f}",
                "achieved": f"{row['achieved']:.3f}",
            }
            for name, row in attributes.items()
        ]
        notes = [f"{len(images)} edited images in {self.out}, the first in {Path(self.out) / SHEET}"]
        figures = {"n": len(images), "unit": plan.unit, "attributes": attributes, "images": each, "out": self.out}
        return Report(figures=figures, rows=rows, notes=notes)


def units(terms: Terms) -> str:
    """The units of some directions, each once."""
    return ", ".join(dict.fromkeys(one.unit for _, one in terms))


def requested(text: str) -> dict[str, float]:
    """The attributes and values of `--set`. ZsemError: it does not read NAME=NUMBER,.."""
    return named_numbers(text, "--set", "smile=0.9,hat=0")


@dataclass(frozen=True, kw_only=True)
class Interpolate(Command):
    """Morph one image into another: both codes change evenly, and the ends are the two images."""

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model, or its name on the Hugging Face hub"""
    a: Annotated[Positional[str], arg(metavar="A")]
    """file of the image to begin with"""
    b: Annotated[Positional[str], arg(metavar="B")]
    """file of the image to end with"""
    out: Annotated[str, arg(metavar="FILE")]
    """picture to write: .png (all frames side by side), .gif, .webp, or .mp4 where ffmpeg is installed"""
    frames: int = 9
    """how many, the two images among them"""
    seconds: float = 0.1
    """time that each frame of a moving picture stays"""
    steps: int = 19
    """noise levels of the codec"""

    def run(self) -> Report:
        import torch

        from zsem.data.animations import ANIMATIONS, check_animation, save_animation
        from zsem.semantics.edits import interpolate

        out = Path(self.out)
        moving = out.suffix.lower() in ANIMATIONS
        if not moving and out.suffix.lower() != ".png":
            raise ZsemError(f"--out {self.out} is of no kind that is known: end it in .png, {', '.join(ANIMATIONS)}")
        if self.frames < 2:
            raise ZsemError(f"--frames must be at least 2, not {self.frames}")
        if not self.seconds > 0:
            raise ZsemError(f"--seconds must be above 0, not {self.seconds:g}")
        if moving:
            check_animation(out)
        model = open_autoencoder(self.model)
        images = [open_images(source, model, limit=2) for source in (self.a, self.b)]
        for source, found in zip((self.a, self.b), images, strict=True):
            if len(found) != 1:
                raise ZsemError(f"{source} holds several images: give one file")
        a, b = (model.encode(found, steps=self.steps) for found in images)
        with progress("decoding") as done:
            made = interpolate(model, a, b, self.frames, progress=done)
        shown = model.display(made)
        if moving:
            save_animation(shown, out, seconds=self.seconds, scale=max(1, SHOWN_PIXELS // shown.shape[-1]))
        else:
            save_picture(out, list(shown.split(STRIP)))
        ends = model.config.intensity.normalise(torch.cat([found.pixels for found in images]))
        same = model.config.intensity.identical(ends, made[[0, -1]]).float().mean()
        figures = {"frames": self.frames, "ends_identical": float(same), "out": self.out}
        return Report(figures=figures, notes=[f"{self.frames} frames in {out}"])
