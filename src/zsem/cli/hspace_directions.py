"""Directions in the bottleneck h and in noisy images x_t, for `zsem directions --space h|x`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsem.cli import asyrp
from zsem.cli.attributes import say, semantics_folder
from zsem.cli.command import Report, finite, progress
from zsem.cli.directions import ASYRP_ALONE, LIMIT, changed, names_in, text
from zsem.cli.images import classes_for, file_stems, open_editable, open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from zsem.cli.directions import Directions
    from zsem.data.images import ImageSet
    from zsem.hspace.collect import Collected
    from zsem.hspace.editable import Editable
    from zsem.values.direction import Direction

SHARE = 0.6
"""Timestep of Jacobians as a share of all (LOCO Edit, 2409.02374, section 4)."""
RESAMPLES = 200
"""Bootstrap samples of the figures of one timestep and attribute."""
READINGS = "readings.json"
ASYRP = "asyrp"
"""The method that trains a network for every attribute, which is no file of directions."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a method has found.

    directions: with columns of the table, each by the same names. figures: more of them, JSON-able.
    """

    directions: Sequence[tuple[Direction, Mapping[str, float]]]
    figures: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find(command: Directions) -> Report:
    """Find directions as the command says, and write their files."""
    from zsem.values.direction import save_directions
    from zsem.values.files import write_whole

    method = command.method or ("mean" if command.space == "h" else "jacobian")
    _check(command, method)
    if method == ASYRP:
        asyrp.check(command)
    home = semantics_folder(command.model, None).parent if command.out is None else None
    out = Path(str(command.out)) if home is None else home / "hspace" / "directions"
    model = open_editable(command.model)
    if method == ASYRP:
        return asyrp.learn(command, model, out)
    found = METHODS[method](command, model)
    stems = file_stems([_file(d.name, method) for d, _ in found.directions], len(found.directions))
    for (direction, _), stem in zip(found.directions, stems, strict=True):
        save_directions(out / f"{stem}.safetensors", [direction])
    figures = [
        {"name": d.name, "unit": d.unit, "timesteps": len(d.timesteps), **columns, "file": f"{stem}.safetensors"}
        for (d, columns), stem in zip(found.directions, stems, strict=True)
    ]
    if found.figures:
        write_whole(out / READINGS, (json.dumps(finite(found.figures), indent=2) + "\n").encode())
    return Report(
        figures={"space": command.space, "method": method, "directions": figures, **found.figures, "out": str(out)},
        rows=[{name: str(v) if isinstance(v, int) else text(v) for name, v in row.items()} for row in figures],
        notes=[*found.notes, f"files in {out}"],
    )


def of_means(command: Directions, model: Editable) -> Found:
    """Mean differences of attributes, without what others change where some are kept."""
    from zsem.hspace.means import extremes, mean_difference

    keep = names_in(command.keep)
    with tempfile.TemporaryDirectory() as room:
        if command.data is None:
            collected, labels = _judged(command, model, room)
            labels = {name: extremes(scores, command.ends) for name, scores in labels.items()}
        else:
            images = _labelled(command, model).split("train").limit(_limit(command))
            collected, labels = _collected(command, model, images, f"{room}/h.npy"), images.attributes
        wanted = names_in(command.attribute) or [name for name in labels if name not in keep]
        known = {name: mean_difference(collected, labels[name], name) for name in _there([*wanted, *keep], labels)}
    found = [known[name].without(*(known[other] for other in keep)) if keep else known[name] for name in wanted]
    if command.average:
        found = [direction.mean() for direction in found]
    return Found(directions=[(direction, {"length": _length(direction)}) for direction in found])


def of_components(command: Directions, model: Editable) -> Found:
    """Principal components of h, of images or samples."""
    from zsem.hspace.components import pca

    with tempfile.TemporaryDirectory() as room:
        if command.data is None:
            collected, _ = _samples(command, model, room)
        else:
            images = open_images(command.data, model, split="train", limit=_limit(command))
            collected = _collected(command, model, images, f"{room}/h.npy")
        found = pca(collected, command.components, joint=not command.separate)
    return Found(directions=[(direction, {"length": _length(direction)}) for direction in found])


def of_boundaries(command: Directions, model: Editable) -> Found:
    """Normals of probes' boundaries, and at which timesteps the probes read what."""
    from dataclasses import replace

    from zsem.evaluation.attributes import labelled_part, learnable
    from zsem.hspace.boundary import boundary, chosen, read_attributes

    found = _labelled(command, model)
    train, test = (labelled_part(part).limit(_limit(command)) for part in (found.split("train"), found.held_out()))
    names = learnable(train, test)
    names = _there(names_in(command.attribute) or names, {name: train.attributes[name] for name in names})
    train, test = (replace(part, attributes={name: part.attributes[name] for name in names}) for part in (train, test))
    with tempfile.TemporaryDirectory() as room:
        h, held_out = (
            _collected(command, model, part, f"{room}/{name}.npy") for part, name in ((train, "a"), (test, "b"))
        )
        with progress("probing") as done:
            readings = read_attributes(
                h, train.attributes, held_out, test.attributes, train_groups=train.groups or None,
                test_groups=test.groups or None, resamples=RESAMPLES, seed=command.seed, progress=done,
            )  # fmt: skip
        best = {name: chosen(curve, command.timestep) for name, curve in readings.items()}
        rows = [
            (boundary(h, one, name), {"timestep": one.timestep, one.figures.measure: one.figures.score})
            for name, one in best.items()
        ]
    curves = {name: [one.summary() for one in curve] for name, curve in readings.items()}
    return Found(directions=rows, figures={"readings": curves}, notes=(f"curves over timesteps in {READINGS}",))


def of_jacobians(command: Directions, model: Editable) -> Found:
    """Singular vectors of Jacobians at one noise level."""
    from zsem.hspace.jacobian import directions, to_level
    from zsem.semantics.edits import read_mask

    assert command.data is not None
    images = open_images(command.data, model, limit=command.limit or 1)
    classes = classes_for(model, images)
    timestep = round(SHARE * model.schedule.timesteps) if command.timestep is None else command.timestep
    codes = to_level(model, images, timestep, classes=classes, steps=command.steps)
    mask = None if command.mask is None else read_mask(command.mask, model.image_shape[1:])
    setting = "eps_of_h" if command.space == "h" else "h_of_x" if mask is None else "x0_of_x"
    say(f"singular vectors of {setting.replace('_', ' ')} at timestep {timestep}")
    found, triplets = directions(
        model,
        codes,
        command.components,
        setting,
        classes=classes,
        mask=mask,
        tolerance=command.tolerance,
        seed=command.seed,
    )
    note = f"{triplets.products} products with the Jacobian, residual {triplets.residual:.1e}"
    return Found(
        directions=[(d, {"sigma": float(sigma)}) for d, sigma in zip(found, triplets.sigma, strict=True)],
        figures={"timestep": timestep, "residual": triplets.residual, "products": triplets.products}, notes=(note,),
    )  # fmt: skip


METHODS: dict[str, Callable[[Directions, Editable], Found]] = {
    "mean": of_means,
    "pca": of_components,
    "boundary": of_boundaries,
    "jacobian": of_jacobians,
}
"""What finds directions in h, by the name that the command gives it; jacobian finds those in x too."""
OWN = {
    "mean": ("attribute", "keep", "annotations", "pooled", "average", "judge", "ends"),
    "pca": ("components", "pooled", "separate"),
    "boundary": ("attribute", "annotations", "pooled", "timestep"),
    "jacobian": ("components", "timestep", "mask", "tolerance"),
    ASYRP: ("attribute", "annotations", *ASYRP_ALONE),
}
"""Options that mean something for one of them."""


def _check(command: Directions, method: str) -> None:
    """Raise ZsemError for what cannot be, whatever the model."""
    if method not in {*METHODS, ASYRP} or (command.space == "x" and method != "jacobian"):
        there = "jacobian" if command.space == "x" else ", ".join([*METHODS, ASYRP])
        raise ZsemError(f"{method} finds no directions in {command.space}: choose one of {there}")
    others = {name for own in OWN.values() for name in own} - set(OWN[method])
    if wrong := changed(command, [*sorted(others), "semantics"]):
        raise ZsemError(f"--{wrong[0]} means nothing for {method} in {command.space}: leave it out")
    least = 1 if method == "jacobian" else 4
    if command.limit is not None and command.limit < least:
        raise ZsemError(f"--limit must be at least {least}, not {command.limit}")
    if command.data is None and not (method == "pca" or (method == "mean" and command.judge)):
        hint = ", or let a --judge score samples" if method == "mean" else ""
        raise ZsemError(f"{method} looks at h of images: name DATA after RUN{hint}")
    if command.data is not None and command.judge is not None:
        raise ZsemError("--judge scores samples, and DATA has labels: give one of them")


def _limit(command: Directions) -> int:
    return LIMIT if command.limit is None else command.limit


def _labelled(command: Directions, model: Editable) -> ImageSet:
    """All images with what is known of them."""
    from zsem.data.annotations import with_labels

    assert command.data is not None
    images = with_labels(open_images(command.data, model, as_trained=True), command.annotations).images
    if not images.attributes:
        raise ZsemError(f"{command.data} has no labels: put attributes.csv beside the images, or them in folders")
    return images


def _collected(command: Directions, model: Editable, images: ImageSet, file: str) -> Collected:
    """h of images, in a file: a thousand maps at all levels are too many for the memory."""
    from zsem.hspace.collect import collect

    say(f"h of {len(images)} images")
    with progress("inverting") as done:
        found, _ = collect(
            model, images, classes=classes_for(model, images), steps=command.steps, pooled=command.pooled, file=file,
            progress=done,
        )  # fmt: skip
    return found


def _samples(command: Directions, model: Editable, room: str) -> tuple[Collected, Any]:
    """h of samples, and the samples."""
    from zsem.hspace.collect import collect_samples
    from zsem.models.diffusion import DiffusionModel

    if not isinstance(model, DiffusionModel):
        raise ZsemError(f"{command.model} makes no samples without codes: name DATA after RUN")
    number, known = _limit(command), model.config.unet.num_classes
    say(f"h of {number} samples")
    with progress("sampling") as done:
        return collect_samples(
            model, number, classes=None if known is None else [i % known for i in range(number)], seed=command.seed,
            steps=command.steps, pooled=command.pooled, file=f"{room}/h.npy", progress=done,
        )  # fmt: skip


def _judged(command: Directions, model: Editable, room: str) -> tuple[Collected, dict[str, Any]]:
    """h of samples, and what the judge says of them, by attribute."""
    from zsem import api
    from zsem.models.judge import Judge

    assert command.judge is not None
    judge = api.load(command.judge, kind=Judge)
    if judge.config.image_shape != model.image_shape:
        raise ZsemError(f"{command.judge} judges images of {judge.config.image_shape}, not {model.image_shape}")
    collected, images = _samples(command, model, room)
    logits = judge.logits(images.clamp(-1, 1))
    return collected, {name: logits[:, i] for i, name in enumerate(judge.config.attributes)}


def _there(names: list[str], known: Mapping[str, Any]) -> list[str]:
    """The same names. ZsemError: one of them is not known."""
    for name in names:
        if name not in known:
            raise ZsemError(f"there is no attribute {name!r} with enough labels: choose one of {', '.join(known)}")
    return names


def _length(direction: Direction) -> float:
    """Root mean square over timesteps of the length of an amount of 1."""
    return float(direction.vector.square().sum() / max(len(direction.timesteps), 1)) ** 0.5


def _file(name: str, method: str) -> str:
    """The name of a file, safe as a path: what follows the last dot is cut off later."""
    safe = name.replace("/", "-").replace("\\", "-")
    return f"{safe}-{method}.safetensors" if method in {"mean", "boundary"} else f"{safe}.safetensors"
