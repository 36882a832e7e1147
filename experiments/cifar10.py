"""Samplers, guidance and baselines on CIFAR-10: the tables of DDIM and of guided diffusion at the size of a CPU.

    python -m experiments.models train cifar10-ddpm cifar10-classifier cifar10-vae cifar10-gan --cifar10 FILE
    python -m experiments.cifar10 --cifar10 FILE [--parts PART ..] [--solvers NAME ..] [--out runs/cifar10]

FILE: CIFAR-10 as a folder or archive of class folders below train and test. Every set of samples is judged once and its
figures kept in OUT/cells by models and number, so that a stopped run goes on; OUT/report.md and its pictures are
written anew each time.

guidance      class accuracy by an independent classifier of clean images, FD-EffLite0, precision and recall over scales
              of classifier-free guidance, and of a classifier's guidance of samples that are told no class
samplers      FD-EffLite0 by solver and number of steps; three sets of samples at 10 and 20 steps, one with a bootstrap
              interval at 50 and 100 (DDIM, table 1)
consistency   mean ST-LPIPS between what different numbers of steps make of one x_T (DDIM, section 5.2)
baselines     bits per dimension of held-out images, interpolation of x_T, samples and FD of the VAE and the GAN
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from experiments.models import class_judge, finished
from experiments.runs import RUNS, kept
from experiments.samples import REFERENCE, SETS, at_precision, judged_set, precision_of, reference_of, shown
from experiments.tables import within
from torch import Tensor

from zsem.data.images import ImageSet, load_images
from zsem.data.pixels import from_uint8, grid, save_png, to_uint8
from zsem.evaluation.keeping import digest
from zsem.metrics.intervals import wilson
from zsem.metrics.perceptual import mean_distance
from zsem.metrics.samples import Distribution, judge_distribution
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.nets.features import load_efficientnet_lite0
from zsem.nets.perceptual import load_stlpips
from zsem.values.codes import slerp
from zsem.values.files import write_whole

FREE_SCALES, CLASSIFIER_SCALES = (0.0, 1.0, 2.0, 4.0, 8.0), (0.0, 1.0, 3.0, 8.0, 20.0)
SAMPLERS: dict[str, dict[str, Any]] = {
    "DDPM": {"solver": "ddpm", "spacing": "uniform"},
    "DDIM, eta 1": {"solver": "ddim", "eta": 1.0, "spacing": "uniform"},
    "DDIM, eta 0.5": {"solver": "ddim", "eta": 0.5, "spacing": "uniform"},
    "DDIM": {"solver": "ddim", "spacing": "uniform"},
    "DPM-Solver++(2M)": {"solver": "dpmpp_2m"},
    "UniPC-2": {"solver": "unipc"},
}
PAIRS, STEPS = 64, (10, 20, 50, 100)  # of the consistency
BATCH = 50
BITS = {"number": 128, "terms": 100}


def class_samples(
    model: DiffusionModel, number: int, *, seed: int = 0, half: bool = False, **settings: Any
) -> Iterator[Tensor]:
    """Samples of all classes in turn, batch by batch, clipped to [-1, 1]. half: networks as `at_precision` says."""
    known = len(model.config.class_names)
    for first in range(0, number, BATCH):
        classes = [i % known for i in range(first, min(first + BATCH, number))]
        with at_precision(model.device) if half else contextlib.nullcontext():
            made = model.sample(len(classes), classes=classes, seed=seed, first=first, batch_size=BATCH, **settings)
        yield made.clamp(-1, 1)


class Study:
    """The models, the real images, and the cells that are done already."""

    def __init__(self, cifar10: str, number: int, out: Path, solvers: Sequence[str] = tuple(SAMPLERS)) -> None:
        self.number, self.out, self.solvers = number, out, solvers
        self.images: ImageSet = load_images(cifar10, size=32)
        self.model: DiffusionModel = finished("cifar10-ddpm", DiffusionModel)
        self.classifier: NoisyClassifier = finished("cifar10-classifier", NoisyClassifier)
        self.judge = class_judge(self.images, RUNS / "cifar10-judge")
        self.network = load_efficientnet_lite0()
        others = (finished(name) for name in ("cifar10-vae", "cifar10-gan"))
        self.stamp = digest([model.stamp for model in (self.model, self.classifier, self.judge, *others)])
        self.precision = precision_of(self.model.device)

    @functools.cached_property
    def reference(self) -> Distribution:
        """The real training images, as samples are compared with them."""
        return reference_of(self.images, self.network)

    def cell(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of one cell, found in its file or made and kept there."""
        return kept(self.out / "cells" / f"{self.stamp}-{self.number}-{self.precision}" / f"{name}.json", work)

    def samples(self, number: int, *, seed: int = 0, told: bool = True, **settings: Any) -> Iterator[Tensor]:
        """Samples of all classes in turn, batch by batch; `told` False leaves the class to a classifier's guidance."""
        told_or_not = {"guidance_scale": 1.0 if told else 0.0}
        return class_samples(self.model, number, seed=seed, **{**told_or_not, "half": True, **settings})

    def accuracy(self, pixels: Tensor, classes: Tensor) -> float:
        """Share of uint8 images that the judge takes for their classes."""
        return float((self.judge.logits(pixels).argmax(dim=1) == classes).double().mean())

    def held_out_accuracy(self) -> dict[str, Any]:
        """Of the judge on real test images."""
        held_out = self.images.held_out()
        return {"accuracy": self.accuracy(held_out.pixels, held_out.classes), "n": len(held_out)}

    def guided(self, **settings: Any) -> dict[str, Any]:
        """Figures of one set of guided samples."""
        known = len(self.images.class_names)
        parts = list(self.samples(self.number, **settings))
        figures = judge_distribution(self.reference, parts)
        classes = torch.arange(self.number) % known
        return {"accuracy": self.accuracy(to_uint8(torch.cat(parts)), classes), **asdict(figures)}


def guidance(study: Study) -> list[str]:
    """The table of both guidances; curves in guidance.png."""
    rows = []
    for scale in FREE_SCALES:
        figures = study.cell(f"free-{scale:g}", functools.partial(study.guided, guidance_scale=scale))
        rows.append(("classifier-free", scale, figures))
    for scale in CLASSIFIER_SCALES:
        work = functools.partial(study.guided, told=False, classifier=study.classifier, classifier_scale=scale)
        # not guided and told no class: the same samples as those of guidance_scale 0
        name = f"classifier-{scale:g}" if scale else "free-0"
        rows.append(("classifier", scale, study.cell(name, work)))
    judge = study.cell("judge", study.held_out_accuracy)
    draw_guidance(rows, study.out / "guidance.png")
    lines = [
        f"{study.number} samples each, UniPC-2 with 20 steps, networks in {study.precision} as in training. The judge, "
        "trained on clean images, finds the class of "
        f"{judge['accuracy']:.1%} of {judge['n']:,} test images; chance is 10 %.",
        "",
        "| guidance | scale | class accuracy | 95 % interval | FD-EffLite0 | precision | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scale, figures in rows:
        ends = wilson(figures["accuracy"], figures["n"])
        lines.append(
            f"| {name} | {scale:g} | {figures['accuracy']:.1%} | {ends.low:.1%} - {ends.high:.1%} "
            f"| {figures['frechet']:.1f} | {figures['precision']:.3f} | {figures['recall']:.3f} |"
        )
    return [*lines, "", "![Class accuracy and recall over the scale of guidance](guidance.png)"]


def draw_guidance(rows: list[tuple[str, float, dict[str, Any]]], path: Path) -> None:
    """Accuracy, with its intervals, and recall over the scale, for both guidances."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(name for name, _, _ in rows):
        scales, found = zip(*((scale, f) for n, scale, f in rows if n == name), strict=True)
        shares = [f["accuracy"] for f in found]
        ends = [wilson(f["accuracy"], f["n"]) for f in found]
        errors = [[s - end.low for s, end in zip(shares, ends, strict=True)]]
        errors.append([end.high - s for s, end in zip(shares, ends, strict=True)])
        left.errorbar(scales, shares, yerr=errors, marker="o", capsize=3, label=name)
        right.plot(scales, [f["recall"] for f in found], marker="o", label=name)
    for axes, label in ((left, "class accuracy"), (right, "recall")):
        axes.set(xlabel="scale", ylabel=label, ylim=(0, None))
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def samplers(study: Study) -> list[str]:
    """The table of solvers; mean and deviation over sets, or one set's bootstrap interval."""
    lines = [
        f"FD-EffLite0 of {study.number} samples to {REFERENCE:,} training images: mean and standard deviation of three "
        "sets at 10 and 20 steps, one set with its 95 % bootstrap interval at 50 and 100. DDPM and DDIM visit evenly "
        "spaced timesteps, as in their papers, the others noise levels that are even in log-SNR. "
        f"Networks are in {study.precision}, as in training.",
        "",
        "| solver | " + " | ".join(f"{steps} steps" for steps in SETS) + " |",
        "|---" * (1 + len(SETS)) + "|",
    ]

    def work(steps: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        parts = study.samples(study.number, seed=seed, steps=steps, **settings)
        return judged_set(study.reference, parts, SETS[steps])

    for name in study.solvers:
        settings, cells = SAMPLERS[name], []
        for steps, sets in SETS.items():
            key = f"{settings['solver']}-{settings.get('eta', 0):g}-{steps}"
            found = [
                study.cell(f"{key}-{seed}", functools.partial(work, steps, seed, settings)) for seed in range(sets)
            ]
            cells.append(shown(found))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def consistency(study: Study) -> list[str]:
    """Distances between what different numbers of steps make of the same x_T; a picture of the first eight."""
    distance = load_stlpips()

    def work(settings: dict[str, Any]) -> dict[str, Any]:
        made = {steps: torch.cat(list(study.samples(PAIRS, steps=steps, half=False, **settings))) for steps in STEPS}
        rows = [to_uint8(images[:8]) for images in made.values()]
        save_png(
            grid(*rows, captions=[str(steps) for steps in STEPS], scale=2),
            study.out / f"steps-{settings['solver']}.png",
        )
        return {
            f"{a}-{b}": asdict(mean_distance(distance, made[a], made[b])) for a, b in itertools.combinations(STEPS, 2)
        }

    found = {
        name: study.cell(f"consistency-{name}", functools.partial(work, SAMPLERS[name])) for name in ("DDIM", "DDPM")
    }
    pairs = list(itertools.combinations(STEPS, 2))
    lines = [
        f"Mean ST-LPIPS (95 % interval) between {PAIRS} pairs of samples from the same x_T and classes, by the numbers "
        "of steps that made them: DDIM makes nearly the same image, DDPM, which draws noise at every step, another.",
        "",
        "| solver | " + " | ".join(f"{a} and {b}" for a, b in pairs) + " |",
        "|---" * (1 + len(pairs)) + "|",
    ]
    for name, figures in found.items():
        cells = [figures[f"{a}-{b}"] for a, b in pairs]
        lines.append(f"| {name} | " + " | ".join(within(c["distance"], c["interval"], ".3f") for c in cells) + " |")
    return [*lines, "", "![DDIM at 10, 20, 50 and 100 steps](steps-ddim.png)", "![DDPM at the same](steps-ddpm.png)"]


def baselines(study: Study) -> list[str]:
    """Bits per dimension, interpolation of x_T, and the VAE and the GAN beside the diffusion model."""
    held_out = study.images.held_out()

    def bits() -> dict[str, Any]:
        some = held_out.limit(BITS["number"])
        found = study.model.bits_per_dim(some, classes=some.classes, terms=BITS["terms"]).total
        return {"bits": float(found.mean()), "error": float(found.std() / len(found) ** 0.5), "n": len(found)}

    def of_baseline(name: str) -> dict[str, Any]:
        model = finished(f"cifar10-{name}")
        images = model.sample(study.number).clamp(-1, 1)
        save_png(grid(*to_uint8(images[:32]).split(8), scale=2), study.out / f"{name}.png")
        return asdict(judge_distribution(study.reference, images.split(BATCH)))

    def real() -> dict[str, Any]:
        return asdict(
            judge_distribution(study.reference, map(from_uint8, held_out.limit(study.number).pixels.split(BATCH)))
        )

    draw_slerp(study, study.out / "slerp.png")
    rows = {
        "real test images": study.cell("real", real),
        "diffusion, UniPC-2, 20 steps": study.cell("free-1", functools.partial(study.guided, guidance_scale=1.0)),
        "VAE": study.cell("vae", functools.partial(of_baseline, "vae")),
        "GAN": study.cell("gan", functools.partial(of_baseline, "gan")),
    }
    said = study.cell("bits", bits)
    return [
        f"{said['bits']:.2f} ± {said['error']:.2f} bits per dimension: the variational bound on {said['n']} held-out "
        f"images, {BITS['terms']} of the {study.model.schedule.timesteps} terms each.",
        "",
        f"| {study.number} images | FD-EffLite0 | KID-EffLite0 | precision | recall |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {f['frechet']:.1f} | {f['kid']:.4f} | {f['precision']:.3f} | {f['recall']:.3f} |"
            for name, f in rows.items()
        ),
        "",
        "![Between two x_T, by spherical interpolation](slerp.png)",
        "![The VAE](vae.png)",
        "![The GAN](gan.png)",
    ]  # fmt: skip


def draw_slerp(study: Study, path: Path, pairs: int = 6, frames: int = 9) -> None:
    """A row for each pair of neighbouring x_T, both told the same class."""
    noise = study.model.fresh_noise(2 * pairs).x_T
    share = torch.linspace(0, 1, frames)
    rows = []
    for row in range(pairs):
        between = slerp(noise[[2 * row]], noise[[2 * row + 1]], share)
        made = study.model.sample(frames, classes=row, x_T=between)
        rows.append(to_uint8(made))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(*rows, captions=study.images.class_names[:pairs], scale=2), path)


PARTS: dict[str, tuple[str, Callable[[Study], list[str]]]] = {
    "guidance": ("Guidance", guidance),
    "samplers": ("Samplers", samplers),
    "consistency": ("Consistency", consistency),
    "baselines": ("Likelihood, interpolation, baselines", baselines),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, metavar="FILE")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--solvers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), help="rows of the samplers")
    parser.add_argument("--number", type=int, default=1000, help="samples of a set")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"))
    arguments = parser.parse_args()
    study = Study(arguments.cifar10, arguments.number, arguments.out, arguments.solvers)
    lines = ["# Diffusion models on CIFAR-10", ""]
    for part in arguments.parts:
        title, work = PARTS[part]
        lines += [f"## {title}", "", *work(study), ""]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out / "report.md", "\n".join(lines).encode())
    print(arguments.out / "report.md")


if __name__ == "__main__":
    main()
