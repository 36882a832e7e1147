"""Faces with an attribute that only a few labels say what it is (DiffAE, table 3).

    python -m experiments.models train avatars-64
    python -m experiments.table3 [--number 500] [--draws 3] [--prior mixture] [--quick] [--out runs/tables/table3]

For glasses, smile and hat, a classifier is fitted to the z of a few labelled training faces: as many with as without,
or 100 with and 10,000 of which nobody knows. z is drawn from the prior under it and decoded in 20 steps. Accuracy is
the share of samples that a supervised network, trained on all labels, says have the attribute; FD-EffLite0 is that to
the training faces that have it. Every label draw has its own samples; mean and standard deviation are over draws.
With --quick FD is that to all training faces, as few have each attribute.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from experiments.compiling import compile_network, uncompiled
from experiments.priors import SMALL, latent_ddim, mixture
from experiments.runs import RUNS
from experiments.samples import at_precision, precision_of
from experiments.tables import Cell, Faces, extent_of, fill, parser_of, publish, spread, table
from PIL import Image
from torch import Tensor

from zsem.api.priors import kept_codes
from zsem.data.pixels import from_uint8, grid, save_png, to_uint8
from zsem.evaluation.fewshot import SCENARIOS, Scenario, decoded, draw_conditional, fit_scenario, judge_conditional
from zsem.metrics.memorisation import Memorisation
from zsem.metrics.samples import Distribution, features_of
from zsem.models.judge import Judge
from zsem.models.prior import Prior
from zsem.nets.features import load_efficientnet_lite0
from zsem.semantics.probes import auroc
from zsem.training.judging import ITERATIONS, judge_for

NAME, BATCH, PICTURED, GOAL = "table3", 50, 10, 0.85
ATTRIBUTES = ("glasses", "smile", "hat")
QUICK_ITERATIONS, QUICK_DRAWS, QUICK_STEPS = 10, 2, 2
REAL, ALL = "real", "all"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known, and of how many draws the surest is taken."""

    says: str
    scenario: Scenario
    surest: int = 1


ROWS = {
    "binary-5": Row(says="5 + 5", scenario=SCENARIOS["5 + 5"]),
    "binary-10": Row(says="10 + 10", scenario=SCENARIOS["10 + 10"]),
    "binary-50": Row(says="50 + 50", scenario=SCENARIOS["50 + 50"]),
    "binary-50-surest": Row(says="50 + 50, surest of 20", scenario=SCENARIOS["50 + 50"], surest=20),
    "elkan-noto": Row(says="100 + 10,000 unlabelled, Elkan-Noto", scenario=SCENARIOS["PU, Elkan-Noto"]),
    "nnpu": Row(says="100 + 10,000 unlabelled, non-negative PU", scenario=SCENARIOS["PU, nnPU"]),
    "naive": Row(says="100 + 10,000 unlabelled taken as negative", scenario=SCENARIOS["PU, naive"]),
}
QUICK_ROWS, QUICK_ATTRIBUTES = ("binary-5", "elkan-noto"), ("glasses",)


class Study:
    """The faces and their z, what samples are drawn from, and what judges them."""

    def __init__(self, faces: Faces, prior: Prior, *, number: int, steps: int, quick: bool) -> None:
        self.faces, self.prior, self.number, self.steps = faces, prior, number, steps
        self.network, self._quick = load_efficientnet_lite0(), quick
        self._real: dict[str, tuple[Distribution, Memorisation]] = {}

    @functools.cached_property
    def z(self) -> tuple[Tensor, Tensor]:
        """Of training and of held-out faces."""
        images, folder = self.faces.images, RUNS / "codes"
        train, test = (
            kept_codes(self.faces.autoencoder, part, folder) for part in (images.split("train"), images.held_out())
        )
        return train, test

    @functools.cached_property
    def judge(self) -> Judge:
        """A supervised network, trained on all labels once."""
        iterations = QUICK_ITERATIONS if self._quick else ITERATIONS
        folder = RUNS / f"judge-{self.faces.stamp(iterations=iterations)}"
        return judge_for(self.faces.images, folder, iterations=iterations)

    def real(self, attribute: str) -> tuple[Distribution, Memorisation]:
        """Training faces with an attribute, as samples are compared with them; these and held-out ones, for copies."""
        if attribute not in self._real:
            train, held_out = (
                features_of(self.network, _batches(self._having(attribute, split, every=self._quick)))
                for split in ("train", "val")
            )
            self._real[attribute] = Distribution(self.network, train), Memorisation(train, held_out)
        return self._real[attribute]

    def _having(self, attribute: str, split: str, *, every: bool) -> Tensor:
        """Pixels of the faces that have it, or of every face."""
        images = self.faces.images.split(split)
        return images.pixels if every else images.pixels[torch.from_numpy(images.attributes[attribute] == 1)]

    def samples(self, attribute: str, row: Row, draw: int, number: int | None = None) -> tuple[Any, list[Tensor]]:
        """What was fitted and drawn, JSON-able, and the images, batch by batch, clipped to [-1, 1]."""
        train, test = self.faces.images.split("train"), self.faces.images.held_out()
        found = fit_scenario(
            row.scenario, self.z[0], train.attributes[attribute], self.faces.autoencoder, seed=draw
        )  # fmt: skip
        drawn = draw_conditional(self.prior, found, number or self.number, surest=row.surest, seed=draw)
        scores = auroc(
            found.logit(self.z[1]).double().numpy(), test.attributes[attribute].astype(np.float64)
        )  # fmt: skip
        model = self.faces.autoencoder
        with at_precision(model.device):
            # as a list, since a generator would run its networks outside
            made = list(decoded(model, drawn.z, seed=draw, steps=self.steps, batch_size=BATCH))
        about = {
            **found.about, "class_prior": found.class_prior, "auroc": scores, "acceptance": drawn.acceptance
        }  # fmt: skip
        return about, [part.clamp(-1, 1) for part in made]

    def judged(self, attribute: str, parts: Sequence[Tensor]) -> dict[str, Any]:
        """Figures of images that are to have an attribute, copies of training faces included."""
        reference, copies = self.real(attribute)
        figures = judge_conditional(self.judge, attribute, reference, parts).summary
        counted = copies.empty()
        counted.update(features_of(self.network, parts))
        return {**figures, "memorisation": asdict(counted.compute())}

    def work(self, attribute: str, row: Row, draw: int) -> dict[str, Any]:
        """One cell."""
        about, parts = self.samples(attribute, row, draw)
        return {"fitted": about, **self.judged(attribute, parts)}

    def of_real(self, attribute: str, every: bool) -> dict[str, Any]:
        """Held-out faces in place of samples: those with the attribute, or all of them."""
        pixels = self._having(attribute, "val", every=every)
        return self.judged(attribute, list(_batches(pixels[: self.number])))


def _batches(pixels: Tensor) -> Iterator[Tensor]:
    return map(from_uint8, pixels.split(BATCH))


def cells_of(study: Study, rows: Mapping[str, Row], attributes: Sequence[str], draws: int) -> dict[str, Cell]:
    """All cells, by name."""
    cells = {}
    for attribute in attributes:
        for name in (REAL, ALL):
            work = functools.partial(study.of_real, attribute, name == ALL)
            cells[f"{attribute}-{name}"] = Cell(evaluations=0, work=work)
        for name, row in rows.items():
            for draw in range(draws):
                work = functools.partial(study.work, attribute, row, draw)
                cells[f"{attribute}-{name}-{draw}"] = Cell(evaluations=study.steps * study.number, work=work)
    return cells


def lines_of(
    rows: Mapping[str, Row], found: Mapping[str, Mapping[str, Any]], attributes: Sequence[str], draws: int
) -> list[str]:
    """A table for each attribute, and whether accuracy is what was aimed at."""
    lines: list[str] = []
    for attribute in attributes:
        body = []
        for name, row in rows.items():
            sets = [found[f"{attribute}-{name}-{draw}"] for draw in range(draws)]
            fitted = [figures["fitted"] for figures in sets]
            body.append([
                row.says, _over([f["auroc"] for f in fitted], ".3f"), _over([f["acceptance"] for f in fitted], ".3f"),
                _over([f["accuracy"] for f in sets], ".3f"), _over([f["frechet"] for f in sets], ".1f"),
                _over([f["precision"] for f in sets], ".3f"),
                _over([f["memorisation"]["ratio"] for f in sets], ".3f"),
            ])  # fmt: skip
        for name, says in ((ALL, "held-out faces of all kinds"), (REAL, "held-out faces that have it")):
            figures = found[f"{attribute}-{name}"]
            body.append([
                says, "", "", f"{figures['accuracy']:.3f}", f"{figures['frechet']:.1f}", f"{figures['precision']:.3f}",
                f"{figures['memorisation']['ratio']:.3f}",
            ])  # fmt: skip
        head = ["labels", "AUROC", "acceptance", "accuracy", "FD-EffLite0", "precision", "memorisation"]
        lines += [f"## {attribute}", "", *table(head, body), ""]
    for attribute in attributes:
        for name, row in rows.items():
            if row.scenario == SCENARIOS["50 + 50"]:
                accuracy = float(np.mean([found[f"{attribute}-{name}-{draw}"]["accuracy"] for draw in range(draws)]))
                word = "at least" if accuracy >= GOAL else "below"
                lines.append(f"- {attribute}: accuracy {accuracy:.3f} with {row.says}, {word} {GOAL}")
    return lines


def _over(values: Sequence[float], form: str) -> str:
    return spread(values, form) if len(values) > 1 else f"{values[0]:{form}}"


def draw(study: Study, rows: Mapping[str, Row], attributes: Sequence[str]) -> Image.Image:
    """The first samples of the first draw of every row, an attribute after the other."""
    pictures, captions = [], []
    for attribute in attributes:
        for row in rows.values():
            pictures.append(to_uint8(torch.cat(study.samples(attribute, row, 0, PICTURED)[1])))
            captions.append(f"{attribute}: {row.says}")
    return grid(*pictures, captions=captions, scale=max(1, 64 // pictures[0].shape[-1]))


def main() -> None:
    parser = parser_of(NAME, __doc__, number=500, what="samples of a cell")
    parser.add_argument("--steps", type=int, default=20, help="of the decoder; default 20")
    parser.add_argument("--draws", type=int, default=3, help="draws of labels; default 3")
    parser.add_argument("--attributes", nargs="+", metavar="NAME", help=f"default {' '.join(ATTRIBUTES)}")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=f"not all of {', '.join(ROWS)}")
    parser.add_argument("--prior", choices=["mixture", "ddim"], default="mixture", help="what z is drawn from")
    given = extent_of(parser)
    draws, steps = (QUICK_DRAWS, QUICK_STEPS) if given.quick else (given.draws, given.steps)
    faces, attributes = Faces(given), given.attributes or (QUICK_ATTRIBUTES if given.quick else ATTRIBUTES)
    if unknown := set(attributes) - set(faces.images.attributes):
        parser.error(f"there is no attribute {min(unknown)!r}; choose among {', '.join(faces.images.attributes)}")
    prior = mixture(faces) if given.prior == "mixture" else latent_ddim(faces, SMALL, quick=given.quick)
    rows = {name: ROWS[name] for name in given.rows or (QUICK_ROWS if given.quick else ROWS)}
    study = Study(faces, prior, number=given.number, steps=steps, quick=given.quick)
    compile_network(faces.autoencoder.unet, given.number)
    precision = precision_of(faces.autoencoder.device)
    stamp = faces.stamp(
        faces.autoencoder, prior, study.judge, number=given.number, steps=steps, precision=precision
    )  # fmt: skip
    found = fill(given.out / "cells" / stamp, cells_of(study, rows, attributes, draws))
    with uncompiled():
        save_png(draw(study, rows, attributes), given.out / "samples.png")
    judge = {name: study.judge.history["auroc"].get(name) for name in attributes}
    lines = [
        "# Few-shot conditional samples",
        f"{given.number:,} samples in {steps} steps ({precision}), z from the {given.prior}; mean and deviation over "
        f"{draws} draws of labels. AUROC: of the few-shot classifier on held-out faces. Acceptance: the share of "
        "the prior's z that would be accepted. Memorisation: mean distance to the nearest training face that has the "
        "attribute, over that of held-out faces. The paper's row \"naive\" is the FD of all images, here the row "
        f"\"held-out faces of all kinds\". AUROC of the judge: {', '.join(f'{k} {v}' for k, v in judge.items())}.",
        "",
        *lines_of(rows, found, attributes, draws),
        "",
        "![The first samples of every row](samples.png)",
    ]  # fmt: skip
    publish(given.out, NAME, lines, found, quick=given.quick)


if __name__ == "__main__":
    main()
