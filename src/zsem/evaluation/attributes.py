"""How well attributes can be read off z, beside what else they could be read off; and what is learned on the way.

The same linear probe is fitted to the same labelled training images every time, and judged on the same held-out ones:
on z, on as many principal components of the pixels, on the pixels, and on the codes of a VAE. A network that sees
pixels and labels (the judge) shows the ceiling.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.judge import Judge
from zsem.models.vae import VariationalAutoencoder
from zsem.semantics.attributes import Semantics, learn
from zsem.semantics.probes import (
    RESAMPLES,
    Probe,
    ProbeFigures,
    group_numbers,
    is_binary,
    judge_scores,
    pca_baseline,
    probe_attributes,
)
from zsem.values.errors import ZsemError

LABELS, HELD_OUT = 1000, 2000
"""Labelled training images, and held-out ones, where nothing is said."""
UNLABELLED = 4000
"""Training images that principal components are fitted to at most; they need no labels, as z needed none."""
SIDE = 64
"""Pixels that a probe sees are averaged to about this side: 200,000 numbers would tell it nothing more."""
SOURCES = ("pca", "pixels", "vae", "cnn")
"""What z is compared with, as the figures name it."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Held-out figures of one attribute from z and from everything else; None for what was not asked for."""

    z: ProbeFigures
    pca: ProbeFigures | None = None
    pixels: ProbeFigures | None = None
    vae: ProbeFigures | None = None
    cnn: ProbeFigures | None = None

    def summary(self) -> dict[str, Any]:
        """The figures of z (auroc or r2, low, high, p, n), and the measure alone of what it is compared with."""
        others = {name: getattr(self, name) for name in SOURCES}
        return {
            self.z.measure: self.z.score, "low": self.z.low, "high": self.z.high, "p": self.z.p,
            **{name: None if figures is None else figures.score for name, figures in others.items()},
            "n": self.z.n,
        }  # fmt: skip

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of everything that there is."""
        all_of_them = {name: getattr(self, name) for name in ("z", *SOURCES)}
        return {name: (figures.low, figures.high) for name, figures in all_of_them.items() if figures is not None}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What `judge_attributes` found."""

    semantics: Semantics
    attributes: Mapping[str, Compared]
    labels: int
    """labelled training images"""
    held_out: int
    """held-out images"""

    @property
    def figures(self) -> dict[str, Any]:
        """JSON-able: by attribute, `Compared.summary` and the intervals."""
        return {
            "attributes": {name: row.summary() for name, row in self.attributes.items()},
            "intervals": {name: row.intervals() for name, row in self.attributes.items()},
            "labels": self.labels,
            "held_out": self.held_out,
            "groups": bool(self.semantics.about.get("groups")),
        }


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """The images that probes learn from, those that they are judged on, and how figures are made."""

    train: ImageSet
    test: ImageSet
    resamples: int
    seed: int

    def probed(
        self, train: Float[np.ndarray, "n d"] | Tensor, test: Float[np.ndarray, "m d"] | Tensor
    ) -> dict[str, tuple[Probe, ProbeFigures]]:
        """Probes of all attributes on any codes of both."""
        return probe_attributes(
            train, self.train.attributes, test, self.test.attributes,
            train_groups=self.train.groups or None, test_groups=self.test.groups or None,
            resamples=self.resamples, seed=self.seed,
        )  # fmt: skip

    def figures(self, train: Any, test: Any) -> dict[str, ProbeFigures]:
        """Held-out figures alone."""
        return {name: figures for name, (_, figures) in self.probed(train, test).items()}


def judge_attributes(
    model: DiffusionAutoencoder,
    images: ImageSet,
    *,
    classes: Collection[str] = (),
    vae: VariationalAutoencoder | None = None,
    judge: Judge | None = None,
    labels: int = LABELS,
    held_out: int = HELD_OUT,
    resamples: int = RESAMPLES,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Judged:
    """Learn all attributes of `images` from training images, and judge them on held-out ones.

    images: with training and held-out ones of the model's size, 0/1 or real attributes (NaN = missing), and perhaps
        groups, which neither folds nor intervals divide.
    classes: attributes of which every image has at most one.
    vae, judge: further sources; the judge must have been trained on these training images or on others of their kind.
    labels, held_out: how many images with a label to use at most, evenly spaced.
    say: told what is being done.
    Attributes with too few labels are left out with a warning. Raises ZsemError where none are left.
    """
    train = labelled_part(images.split("train")).limit(labels)
    test = labelled_part(images.held_out()).limit(held_out)
    names = learnable(train, test)
    train, test = (replace(part, attributes={name: part.attributes[name] for name in names}) for part in (train, test))
    both = _Sides(train=train, test=test, resamples=resamples, seed=seed)
    say(f"z of {len(train)} labelled and {len(test)} held-out images")
    z_train, z_test = (model.encode(part, noise=False, batch_size=64).z for part in (train, test))
    mean, std = model.z_mean.cpu(), model.z_std.cpu()
    probes = both.probed((z_train - mean) / std, (z_test - mean) / std)
    say("principal components and pixels")
    found: dict[str, dict[str, ProbeFigures]] = {"z": {name: figures for name, (_, figures) in probes.items()}}
    found |= from_pixels(both, images.split("train").limit(UNLABELLED), z_train.shape[1])
    if vae is not None:
        say("codes of the VAE")
        found["vae"] = both.figures(vae.encode(train), vae.encode(test))
    if judge is not None:
        say("the supervised network")
        found["cnn"] = from_judge(judge, both)
    say("directions")
    learned = learn(
        z_train, train.attributes, model, probes={name: probe for name, (probe, _) in probes.items()},
        classes=classes, groups=train.groups or None, seed=seed,
        about={"data": images.source, "labels": len(train), "held_out": len(test), "groups": bool(train.groups)},
    )  # fmt: skip
    rows = {name: Compared(**{source: by[name] for source, by in found.items() if name in by}) for name in names}
    kept = {name: replace(a, figures=rows[name].summary()) for name, a in learned.attributes.items()}
    return Judged(semantics=replace(learned, attributes=kept), attributes=rows, labels=len(train), held_out=len(test))


def from_pixels(both: _Sides, unlabelled: ImageSet, dims: int) -> dict[str, dict[str, ProbeFigures]]:
    """Figures from principal components of pixels, as many as z has numbers (or as there can be), and from pixels."""
    train, test, more = (small_pixels(part.pixels) for part in (both.train, both.test, unlabelled))
    components = pca_baseline(train, test, min(dims, len(more), train.shape[1]), unlabelled=more, seed=both.seed)
    return {"pca": both.figures(*components), "pixels": both.figures(train, test)}


def from_judge(judge: Judge, both: _Sides) -> dict[str, ProbeFigures]:
    """Figures of a supervised network, for the attributes that it knows."""
    logits = judge.logits(both.test)
    return {
        name: judge_scores(
            logits[:, column], both.test.attributes[name], True,
            groups=both.test.groups or None, resamples=both.resamples, seed=both.seed,
        )
        for column, name in enumerate(judge.config.attributes)
        if name in both.test.attributes
    }  # fmt: skip


def small_pixels(pixels: Shaped[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """Pixels as numbers [n, c h w], float32, averaged over squares where images are larger than SIDE."""
    factor = max(1, min(pixels.shape[-2:]) // SIDE)
    # in parts: large images may lie in a file that is larger than the memory
    parts = [F.avg_pool2d(part.float(), factor).flatten(1) for part in pixels.split(256)]
    return torch.cat(parts)


def labelled_part(images: ImageSet) -> ImageSet:
    """The images with a label of any attribute. Raises ZsemError where there are none."""
    known = np.zeros(len(images), dtype=bool)
    for values in images.attributes.values():
        known |= ~np.isnan(values)
    if not known.any():
        raise ZsemError(f"{images.source} has no labels on one side of its split: label training and held-out images")
    return images if known.all() else images.subset(np.flatnonzero(known).tolist())


def learnable(train: ImageSet, test: ImageSet) -> list[str]:
    """Attributes that can be learned and judged; a warning names the others.

    They need both labels held out, and two training images (of different groups where there are groups) with each.
    """
    names = []
    for name, values in train.attributes.items():
        binary = is_binary(values)
        there = [np.unique(v[~np.isnan(v)]) for v in (values, test.attributes[name])]
        least = min((independent(train, values == kind) for kind in there[0]), default=0)
        if any(len(labels) < 2 for labels in there) or (binary and least < 2):
            why = "too few of its images have each label"
        elif binary != is_binary(test.attributes[name]):
            why = "its labels are 0 and 1 on one side of the split alone"
        else:
            names.append(name)
            continue
        warnings.warn(f"the attribute {name} is left out: {why}", stacklevel=3)
    if not names:
        raise ZsemError(f"{train.source} has no attribute with enough labels: give more --labels and --held-out images")
    return names


def independent(images: ImageSet, chosen: Bool[np.ndarray, " n"]) -> int:
    """How many of the chosen images do not belong together."""
    return len(np.unique(group_numbers(images.groups or None, chosen)))


def mean_scores(rows: Mapping[str, Compared]) -> dict[str, float]:
    """Mean AUROC over the 0/1 attributes by source, for sources that have all of them."""
    binary = [row for row in rows.values() if row.z.measure == "auroc"]
    means = {}
    for source in ("z", *SOURCES):
        scores = [math.nan if (f := getattr(row, source)) is None else f.score for row in binary]
        if scores and not any(map(math.isnan, scores)):
            means[source] = float(np.mean(scores))
    return means
