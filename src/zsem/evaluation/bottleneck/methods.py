"""The ways to edit that the study of h-space compares: each is found for an attribute on training images alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from zsem.evaluation.bottleneck.workshop import Faces, Method, Workshop, as_long, difference, learned, mean_shift, plain
from zsem.evaluation.flipping import HIGH, LOW
from zsem.hspace import boundary, embeddings
from zsem.hspace.alternatives import Target, classifier_guided, sdedit, towards_mean, tuned
from zsem.hspace.components import pca
from zsem.hspace.editable import Editable, invert
from zsem.hspace.edits import asymmetric, gain_of
from zsem.hspace.engine import Shifts
from zsem.hspace.injection import inject
from zsem.models.scalars import seen
from zsem.semantics.edits import edit
from zsem.semantics.probes import auroc
from zsem.training.shifts import TUNING, tune
from zsem.values.direction import Direction

SYMMETRIC = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
"""Amounts that are tried: gains of the mean difference, or of a direction that was made as long."""
ASYMMETRIC = (0.125, 0.25, 0.5, 1.0)
"""Of the published process, whose steps count for more (Theorem 1: about three times at 20 steps)."""
TRAINED = (0.5, 0.75, 1.0, 1.5)
"""Shares of the gain that f_t or new weights were trained at."""
GAMMAS = (0.2, 0.4, 0.6, 0.8)
NOISED = (0.25, 0.4, 0.55, 0.7)
"""SDEdit: shares of the timesteps that are noised away."""
SCALES = (0.05, 0.1, 0.2, 0.4)
"""Classifier guidance: weights of a gradient of root mean square 1."""
COMPONENTS = 10
READ_ON = 4
"""Every so manieth image judges at which timestep the boundary is taken."""
RESAMPLES = 20


def find_mean(shop: Workshop, name: str) -> Method:
    """The mean difference at every timestep, in both halves of a step."""
    return shop.shifted(difference(shop, name), SYMMETRIC)


def find_global(shop: Workshop, name: str) -> Method:
    """The mean difference averaged over timesteps."""
    return shop.shifted(difference(shop, name).mean(), SYMMETRIC)


def find_asymmetric(shop: Workshop, name: str) -> Method:
    """The mean difference by Asyrp's published step, from the noise of DDIM inversion."""
    shift, model = difference(shop, name), shop.model

    def change(faces: Faces, sign: int, amount: float) -> Tensor:
        grid = model.grid(shop.steps, "ddim", forced=[shop.t_edit] if shop.t_edit > 0 else [])
        codes = invert(model, faces.images, codec="ddim", grid=grid, batch_size=shop.batch_size)
        terms = Shifts([(sign * amount, shift)])
        return asymmetric(model, codes, terms, t_edit=shop.t_edit, batch_size=shop.batch_size)

    return Method(edit=change, amounts=ASYMMETRIC, shift=shift)


def find_component(shop: Workshop, name: str) -> Method:
    """The component on which images with the attribute and without lie furthest apart (AUROC)."""
    collected, labels = shop.collected, shop.labels(name)
    known = ~np.isnan(labels)
    flat = collected.h.reshape(len(collected), -1)

    def apart(component: Direction) -> float:
        scores = (flat @ component.vector.flatten().numpy())[known].astype(np.float64)
        return abs(auroc(scores, labels[known]) - 0.5)

    best = max(pca(collected, min(COMPONENTS, len(collected) - 1)), key=apart)
    return shop.shifted(as_long(best, difference(shop, name), turn=True), SYMMETRIC)


def find_boundary(shop: Workshop, name: str) -> Method:
    """The normal of the probe that reads best, of those at all timesteps; a part of the images judges that."""
    collected, labels = shop.collected, shop.labels(name)
    apart = np.zeros(len(collected), dtype=bool)
    for kind in (0, 1):  # both kinds on both sides
        apart[np.flatnonzero(labels == kind)[::READ_ON]] = True
    train, test = (replace(collected, h=collected.h[side]) for side in (~apart, apart))
    readings = boundary.read_attributes(
        train, {name: labels[~apart]}, test, {name: labels[apart]}, resamples=RESAMPLES
    )[name]
    found = boundary.boundary(train, boundary.chosen(readings), name)
    return shop.shifted(as_long(found, difference(shop, name)), SYMMETRIC)


def find_shift(shop: Workshop, name: str) -> Method:
    """f_t, trained towards the attribute in z_sem."""
    return shop.shifted(learned(shop, name), TRAINED)


def find_mean_shift(shop: Workshop, name: str) -> Method:
    """What f_t adds to h of images that it learned from and that lack the attribute, averaged over them."""
    without = np.flatnonzero(shop.labels(name)[: shop.trained_from] == 0)
    shift = learned(shop, name)
    amounts = tuple(share * gain_of(shift) for share in TRAINED)
    return shop.shifted(mean_shift(shop, shift, shop.collected.h[without], name), amounts)


def find_injection(shop: Workshop, name: str) -> Method:
    """The content of the training image that has what is wanted and is otherwise most like it, to the judge."""
    others = [i for i, one in enumerate(shop.attributes) if one != name]
    known = np.stack([shop.labels(one) for one in shop.attributes], axis=1)[:, others]

    def change(faces: Faces, sign: int, amount: float) -> Tensor:
        suitable = np.flatnonzero(shop.labels(name) == (sign > 0))
        apart = np.abs(faces.before.numpy()[:, None, others] - known[None, suitable])
        rows = suitable[np.nansum(apart, axis=2).argmin(axis=1)]
        chosen = replace(shop.collected, h=shop.collected.h[rows])
        return inject(shop.model, faces.codes, chosen, gamma=amount, interval=shop.interval, batch_size=shop.batch_size)

    return Method(edit=change, amounts=GAMMAS, most=1.0)


def find_sdedit(shop: Workshop, name: str) -> Method:
    """Noise and denoise the image plus the difference of mean images; the amount is how far, of all timesteps."""
    without, having = (shop.floats(shop.kind(name, value)) for value in (0, 1))

    def change(faces: Faces, sign: int, amount: float) -> Tensor:
        sides = (without, having) if sign > 0 else (having, without)
        guides = towards_mean(shop.floats(faces.images), *sides)
        return sdedit(
            shop.model, faces.images, Target(guides=guides), t0=round(amount * (shop.model.schedule.timesteps - 1)),
            steps=shop.steps, batch_size=shop.batch_size,
        )  # fmt: skip

    return Method(edit=change, amounts=NOISED, most=0.95)


def find_guided(shop: Workshop, name: str) -> Method:
    """The gradient of z_sem's linear probe, of the predicted x0."""
    reference = shop.referred()
    network = embeddings.frozen(reference.model)

    def change(faces: Faces, sign: int, amount: float) -> Tensor:
        log_p = reference.semantics.log_p({name: int(sign > 0)})
        target = Target(scalar=lambda x0: log_p(network.encoder(seen(network, x0))))
        return classifier_guided(
            shop.model, faces.images, target, scale=amount, interval=shop.interval, normalise=True,
            steps=shop.steps, batch_size=shop.batch_size,
        )  # fmt: skip

    return Method(edit=change, amounts=SCALES)


def find_tuned(shop: Workshop, name: str) -> Method:
    """New weights that give the attribute, and others that take it away."""
    goal = shop.goal(name)
    back = replace(goal, direction=-goal.direction, name=f"no {name}")
    recipe = replace(TUNING, steps=shop.steps)

    def train() -> list[Editable]:
        return [
            tune(
                shop.model, shop.kind(name, source, first=shop.trained_from), aim,
                shop.folder / f"{plain(name)}-tuned{sign:+d}", recipe=recipe, iterations=shop.tuning_iterations,
                say=shop.say,
            )
            for sign, aim, source in ((1, goal, 0), (-1, back, 1))
        ]  # fmt: skip

    giving, taking = shop.trained(name, "tuned", train)

    def change(faces: Faces, sign: int, amount: float) -> Tensor:
        target = Target(model=giving if sign > 0 else taking)
        gain = amount * recipe.objective.gain
        return tuned(shop.model, faces.images, target, gain=gain, steps=shop.steps, batch_size=shop.batch_size)

    return Method(edit=change, amounts=TRAINED)


def find_z(shop: Workshop, name: str) -> Method:
    """As `bench edit` does by default."""
    reference = shop.referred()

    def change(faces: Faces, sign: int, amount: float) -> Tensor:
        codes = reference.model.encode(faces.images, steps=shop.steps, batch_size=shop.batch_size)
        z = reference.semantics.move(codes.z, {name: HIGH if sign > 0 else LOW}, quiet=True)
        return edit(reference.model, codes, z, batch_size=shop.batch_size)

    return Method(edit=change)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A method as the page tells of it.

    cost: of an edit, in evaluations of the network for each step and image. asks: whether it needs an autoencoder.
    in_h: whether it shifts h. trains: what has to be trained for it, of `LENGTHS`.
    """

    find: Callable[[Workshop, str], Method]
    title: str
    meaning: str
    cost: float | int
    asks: bool = False
    in_h: bool = True
    trains: str | None = None


METHODS: Mapping[str, Kind] = {
    "mean": Kind(
        find=find_mean, title="mean difference, symmetric", cost=1.5,
        meaning="mean h of training images with the attribute minus that of images without, at every timestep, added "
        "in both halves of every step; the amount is a gain of what that changes in eps",
    ),
    "asymmetric": Kind(
        find=find_asymmetric, title="mean difference, asymmetric", cost=2.5,
        meaning="the same direction by the rule that Asyrp published: in the predicted x0 alone, after DDIM inversion",
    ),
    "global": Kind(
        find=find_global, title="mean difference, global", cost=1.5,
        meaning="the same averaged over the timesteps: one shift for all of them",
    ),
    "pca": Kind(
        find=find_component, title="best principal component", cost=1.5,
        meaning=f"of the first {COMPONENTS} principal components of h the one that tells images with and without "
        "apart best; as long as the mean difference",
    ),
    "boundary": Kind(
        find=find_boundary, title="linear boundary", cost=1.5,
        meaning="the normal of a linear probe of h, of the timestep where it reads best; as long as the mean one",
    ),
    "f_t": Kind(
        find=find_shift, title="f_t, trained on z_sem", cost=1.75, asks=True, trains="f_t",
        meaning="Asyrp's network, trained so that the z_sem of the edited image moves as the attribute does, to both "
        "sides; an amount of 1 is the gain that it was trained at",
    ),
    "f_t-mean": Kind(
        find=find_mean_shift, title="f_t, mean of its shifts", cost=1.5, asks=True, trains="f_t",
        meaning="what f_t adds at every timestep, averaged over training images: one shift for all images",
    ),
    "injection": Kind(
        find=find_injection, title="content injection", cost=1.1,
        meaning="h turned towards that of a training image that has what is wanted and is otherwise most like it",
    ),
    "sdedit": Kind(
        find=find_sdedit, title="SDEdit", cost=1, in_h=False,
        meaning="the image, plus the difference of the mean images of both kinds, noised and denoised again",
    ),
    "classifier": Kind(
        find=find_guided, title="classifier-guided", cost=6, asks=True, in_h=False,
        meaning="the image decoded under the gradient of a linear probe of the predicted image's z_sem",
    ),
    "tuned": Kind(
        find=find_tuned, title="fine-tuned (DiffusionCLIP)", cost=2.5, asks=True, in_h=False, trains="tuned",
        meaning="all weights of the network trained with the loss of f_t, once to give and once to take away; an "
        "amount of 1 is the gain that they were trained at",
    ),
    "z_sem": Kind(
        find=find_z, title="z_sem of the autoencoder", cost=3, asks=True, in_h=False,
        meaning="not in h at all: what the autoencoder's own semantic code does, the reference",
    ),
}  # fmt: skip
"""What is compared, in the order of the table."""
FIXED = frozenset({"z_sem"})
"""Methods without an amount."""
LENGTHS: Mapping[str, str] = {"f_t": "shift_iterations", "tuned": "tuning_iterations"}
"""What is trained, and the option that says how long."""
