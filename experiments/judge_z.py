"""What z of a trained autoencoder is worth: probes, pictures from z alone, edits, and the pictures' distribution.

    zsem data avatars --number 12000 --size 64 --out runs/data/avatars-64
    python -m experiments.judge_z RUN runs/data/avatars-64 --judge runs/judges/avatars-64 --json FILE

RUN is a folder of a trained DiffusionAutoencoder, DATA a folder made by `zsem data avatars`. The judge, a supervised
network that reads attributes off pictures, is trained once (a minute) and kept. All figures are of held-out images,
with fixed seeds; a whole judgement takes some three minutes of one processor core.

probes     AUROC of logistic probes on z, on as many principal components of the pixels, and of the judge
alone      error of pictures from z with fresh x_T
edits      z moved along a direction to where images of the other kind are on average, decoded with the image's own
           noise and delta guidance: change of the judge's logit of the target, mean change of its other logits (leak),
           share of images that it sees changed (hit), error to the true counterfactual
pictures   FD-EffLite0 between pictures from held-out z with fresh x_T and real images, beside that of real held-out
           images; and how well the judge reads the attributes of the originals off these pictures
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from zsem import api
from zsem.data import builtin
from zsem.data.images import ImageSet, load_images
from zsem.data.pixels import from_uint8, grid, save_png, to_uint8
from zsem.diffusion.denoiser import bind
from zsem.diffusion.schedule import TimeGrid
from zsem.diffusion.solvers import SOLVERS, last
from zsem.metrics.distribution import FrechetDistance
from zsem.metrics.reconstruction import Reconstruction
from zsem.metrics.samples import features_of
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import U_MAX, evaluation
from zsem.models.judge import Judge
from zsem.nets.features import EfficientNetLite0, load_efficientnet_lite0
from zsem.semantics.edits import edit as decode_edit
from zsem.semantics.probes import Probe, ProbeFigures, judge_scores, pca_baseline, probe_attributes
from zsem.training.judging import binary_attributes, judge_for
from zsem.values import draws
from zsem.values.codes import Codes
from zsem.values.direction import Direction
from zsem.values.files import write_whole
from zsem.values.prediction import Condition

PARTS = ("probes", "alone", "edits", "pictures")
Method = Literal["logistic", "mean"]
EDITED = ("glasses", "beard", "smile", "eyes_closed")
SOLVER, SOLVER_STEPS = "unipc", 10  # within 5 % of the error that 50 steps have
ORDER_DRAW = 0  # the last integer of a draw's name


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is judged."""

    number: int = 4000
    """training images that probes and PCA are fitted to"""
    alone: int = 64
    """held-out images whose z is decoded with fresh noise and compared with them"""
    edited: int = 32
    """held-out images that are edited, each once for every attribute"""
    pictures: int = 500
    """pictures from held-out z whose distribution is judged"""
    reference: int = 1000
    """real training images that it is compared with"""
    method: Method = "logistic"
    """direction of edits: the gradient of the probe, or the difference of the mean codes of the two kinds"""
    scale: float = 2.0
    """scale of the extrapolation from the old z to the new one in edits"""
    resamples: int = 1000
    """bootstrap samples of an interval, and permutations of a p-value"""
    seed: int = 0
    """of fresh noise, bootstrap and choices"""


class Run:
    """A model, the images that it is judged on, and what several parts need of both."""

    def __init__(self, model: DiffusionAutoencoder, folder: Path, images: ImageSet, extent: Extent) -> None:
        self.model, self.folder, self.extent = model, folder, extent
        images = binary_attributes(images)
        self.train = images.split("train").limit(extent.number)
        held_out = images.held_out()
        # so that the first n are a fair choice, whatever n
        self.held_out = held_out.subset(self.order(len(held_out), extent.seed))
        self.z_train, self.z = (
            model.encode(part, noise=False, batch_size=64).z for part in (self.train, self.held_out)
        )

    @staticmethod
    def order(number: int, seed: int) -> list[int]:
        """The order in which held-out images are taken."""
        return draws.generator(seed, ORDER_DRAW).permutation(number).tolist()

    def normalised(self, z: Tensor) -> Tensor:
        """z with mean 0 and standard deviation 1 over the training images, as probes see it."""
        return (z - self.model.z_mean.cpu()) / self.model.z_std.cpu()

    def probed(self, train: Any, held_out: Any) -> dict[str, tuple[Probe, ProbeFigures]]:
        """Probes of all attributes on any codes of the training and the held-out images."""
        return probe_attributes(
            train, self.train.attributes, held_out, self.held_out.attributes,
            resamples=self.extent.resamples, seed=self.extent.seed,
        )  # fmt: skip

    def direction(self, name: str, probe: Probe) -> Direction:
        """The direction of edits of an attribute; an amount of 1 changes its score (`Direction.logit`) by 1."""
        if self.extent.method == "logistic":
            return probe.direction(name, model=self.model.stamp)
        return self.mean_difference(name)

    def mean_difference(self, name: str) -> Direction:
        """From the mean code of training images without an attribute to that of images with it."""
        z, labels = self.normalised(self.z_train), torch.from_numpy(self.train.attributes[name])
        difference = z[labels == 1].mean(0) - z[labels == 0].mean(0)
        slope = float(difference @ difference)
        return Direction(
            space="z", vector=difference / slope, unit="projection", name=name, model=self.model.stamp,
            slope=slope, intercept=0.0,
        )  # fmt: skip

    def moved(self, codes: Codes, direction: Direction) -> Codes:
        """Codes of the first held-out images, moved to where training images of the other kind are on average."""
        scores = direction.logit(self.normalised(self.z_train))
        labels = torch.from_numpy(self.train.attributes[direction.name])
        without, having = (scores[labels == kind].mean() for kind in (0, 1))
        goal = torch.where(self.target(direction.name, len(codes)) == 1, having, without)
        amount = goal - direction.logit(self.normalised(codes.z))
        return replace(codes, z=codes.z + amount[:, None] * direction.vector * self.model.z_std.cpu())

    def target(self, name: str, number: int) -> Tensor:
        """The other label of the first held-out images, 0 or 1, [n]."""
        return 1 - torch.from_numpy(self.held_out.attributes[name][:number])

    def from_z_alone(self, number: int) -> Tensor:
        """uint8 pictures of the first held-out z with fresh x_T, always the same."""
        model, out = self.model, []
        timegrid = TimeGrid.make(model.schedule, SOLVER_STEPS, u_max=U_MAX)
        x_T = model.fresh_noise(number, seed=self.extent.seed).x_T
        with evaluation(model):
            for z, x in zip(self.z[:number].split(16), x_T.split(16), strict=True):
                denoise = bind(model.denoiser, Condition(z=z.to(model.device)))
                decoded, _ = last(SOLVERS[SOLVER](denoise, x.to(model.device), timegrid))
                out.append(to_uint8(decoded).cpu())
        return torch.cat(out)


def judge_probes(run: Run, probes: Mapping[str, tuple[Probe, ProbeFigures]], judge: Judge | None) -> dict[str, Any]:
    """AUROC of every attribute from z, from as many principal components of the pixels, and from the judge."""
    pca = run.probed(*pca_baseline(run.train.pixels, run.held_out.pixels, run.z.shape[1], seed=run.extent.seed))
    attributes = {name: {"z": asdict(f), "pca": asdict(pca[name][1])} for name, (_, f) in probes.items()}
    if judge is not None:
        for name, figures in read_back(run, judge, run.held_out.pixels).items():
            attributes[name]["judge"] = asdict(figures)
    sources = next(iter(attributes.values())).keys()
    mean = {source: float(np.mean([row[source]["score"] for row in attributes.values()])) for source in sources}
    return {"train": len(run.train), "held_out": len(run.held_out), "mean": mean, "attributes": attributes}


def read_back(run: Run, judge: Judge, pixels: Tensor) -> dict[str, ProbeFigures]:
    """How well the judge tells the labels of the first held-out images from `pixels`, pictures that stand for them."""
    logits, labels, extent = judge.logits(pixels), run.held_out.attributes, run.extent
    return {
        name: judge_scores(
            logits[:, column], labels[name][: len(pixels)], True, resamples=extent.resamples, seed=extent.seed
        )
        for column, name in enumerate(judge.config.attributes)
    }


def judge_alone(run: Run, pictures: Tensor) -> dict[str, Any]:
    """Error of pictures from z alone to the images that z came from."""
    counter = Reconstruction()
    counter.update(from_uint8(run.held_out.pixels[: len(pictures)]), from_uint8(pictures))
    figures = counter.compute()
    return {"n": figures.n, "mse": figures.mse, "ssim": figures.ssim}


@dataclass(frozen=True, kw_only=True)
class Edited:
    """One attribute flipped in several images: which way (0 or 1), uint8 pictures, the true counterfactuals."""

    target: Tensor
    pixels: Tensor
    truth: Tensor


def edit(run: Run, codes: Codes, direction: Direction) -> Edited:
    """Flip an attribute of the first held-out images in z, and decode with their own noise and delta guidance."""
    name, target = direction.name, run.target(direction.name, len(codes))
    truth = [
        builtin.counterfactual(run.folder, int(Path(path).stem), name, bool(value))
        for path, value in zip(run.held_out.paths[: len(codes)], target, strict=True)
    ]
    decoded = decode_edit(
        run.model, codes, run.moved(codes, direction).z, scale=run.extent.scale, rescale=0.0, interval=None
    )
    return Edited(target=target, pixels=to_uint8(decoded), truth=torch.stack(truth))


def judge_edit(judge: Judge, before: Tensor, name: str, result: Edited) -> dict[str, Any]:
    """What the judge sees of an edit and of the true counterfactual, in logits; errors on the [0, 1] scale."""
    column = judge.config.attributes.index(name)
    others = [i for i in range(len(judge.config.attributes)) if i != column]
    sign = 2 * result.target - 1
    old = judge.logits(before)

    def seen(pixels: Tensor) -> dict[str, float]:
        new = judge.logits(pixels)
        return {
            "target": float((sign * (new - old)[:, column]).mean()),
            "leak": float((new - old)[:, others].abs().mean()),
            "hit": float((sign * new[:, column] > 0).double().mean()),
            "mse": mean_square(pixels, result.truth),
        }

    return {"edited": seen(result.pixels), "unedited": seen(before), "truth": seen(result.truth)}


def mean_square(a: Tensor, b: Tensor) -> float:
    """Mean squared difference of uint8 pictures on the [0, 1] scale."""
    return float(((a.double() - b.double()) / 255).square().mean())


def judge_edits(
    run: Run, probes: Mapping[str, tuple[Probe, ProbeFigures]], judge: Judge, names: tuple[str, ...], sheet: Path | None
) -> dict[str, Any]:
    """Edits of every named attribute, and their means over attributes; a picture of the first eight images."""
    images = run.held_out.subset(range(min(run.extent.edited, len(run.held_out))))
    before, codes = images.pixels, run.model.encode(images)
    rows, captions, attributes = [before[:8]], ["original"], {}
    for name in names:
        result = edit(run, codes, run.direction(name, probes[name][0]))
        attributes[name] = judge_edit(judge, before, name, result)
        rows += [result.pixels[:8], result.truth[:8]]
        captions += [name, "truth"]
    if sheet is not None:
        save_png(grid(*rows, captions=captions, scale=2), sheet)
    mean = {
        kind: {key: float(np.mean([row[kind][key] for row in attributes.values()])) for key in values}
        for kind, values in next(iter(attributes.values())).items()
    }
    return {"n": len(before), "mean": mean, "attributes": attributes}


def judge_pictures(run: Run, pictures: Tensor, network: EfficientNetLite0, judge: Judge | None) -> dict[str, Any]:
    """FD-EffLite0 to real training images: of pictures from held-out z, and of as many real held-out images.

    The attributes of the originals, read off the pictures by the judge, tell what z knows and the decoder uses.
    """

    def features(pixels: Tensor) -> Tensor:
        return features_of(network, map(from_uint8, pixels.split(32)))

    real = features(run.train.limit(run.extent.reference).pixels)
    reference = FrechetDistance(real)
    found: dict[str, Any] = {}
    for name, pixels in (("z", pictures), ("real", run.held_out.pixels[: len(pictures)])):
        distance = reference.empty()
        distance.update(features(pixels))
        found[name] = distance.compute().distance
    figures: dict[str, Any] = {"n": len(pictures), "n_reference": len(real), "fd_efflite0": found}
    if judge is not None:
        figures["judge"] = {n: f.score for n, f in read_back(run, judge, pictures).items()}
    return figures


def judge_z(
    model: DiffusionAutoencoder,
    folder: str | Path,
    *,
    images: ImageSet | None = None,
    judge: str | Path | Judge | None = None,
    network: EfficientNetLite0 | None = None,
    parts: tuple[str, ...] = PARTS,
    edited: tuple[str, ...] = EDITED,
    extent: Extent = Extent(),
    sheet: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Judge a trained autoencoder on a folder of avatars; a JSON-able report with each part's processor seconds.

    images: the folder's images where they are read already.
    judge: a judge, or the folder of one, which is trained where it is not there; without it nothing is read off
        pictures, and edits are left out.
    network: for the distribution of pictures, by default with the packaged weights.
    parts: which of PARTS to do. edited: attributes that are edited.
    sheet: a PNG file for a picture of the edits.
    """
    seconds: dict[str, float] = {}
    report: dict[str, Any] = {"data": str(folder), "extent": asdict(extent), "seconds": seconds}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = work()
        seconds[name] = round(time.process_time() - begin, 1)
        say(f"{name}: {seconds[name]} s")
        return result

    folder, size, channels = Path(folder), model.config.image_size, model.config.image_channels
    if images is None:
        images = timed("images", lambda: load_images(folder, size=size, channels=channels))
    if not (judge is None or isinstance(judge, Judge)):
        judge = timed("judge", lambda where=judge: judge_for(images, where, say=say))
    run = timed("codes", lambda: Run(model, folder, images, extent))
    probes = {}
    if {"probes", "edits"} & set(parts):
        probes = timed("fit", lambda: run.probed(run.normalised(run.z_train), run.normalised(run.z)))
    if "probes" in parts:
        report["probes"] = timed("probes", lambda: judge_probes(run, probes, judge))
    if "edits" in parts and judge is not None:
        report["edits"] = timed("edits", lambda: judge_edits(run, probes, judge, edited, sheet))
    number = max(extent.pictures * ("pictures" in parts), extent.alone * ("alone" in parts))
    if number:
        pictures = timed("decode", lambda: run.from_z_alone(min(number, len(run.held_out))))
    if "alone" in parts:
        report["alone"] = judge_alone(run, pictures[: extent.alone])
    if "pictures" in parts:
        network = network or load_efficientnet_lite0()
        report["pictures"] = timed("pictures", lambda: judge_pictures(run, pictures, network, judge))
    return report


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    out = []
    if probes := report.get("probes"):
        for name, row in probes["attributes"].items():
            scores = "  ".join(f"{k} {f['score']:.3f} ({f['low']:.3f}-{f['high']:.3f})" for k, f in row.items())
            out.append(f"AUROC {name:12} {scores}")
        out.append("AUROC mean         " + "  ".join(f"{k} {score:.3f}" for k, score in probes["mean"].items()))
    if alone := report.get("alone"):
        out.append(f"z alone, {alone['n']} images: MSE {alone['mse']:.4f}, SSIM {alone['ssim']:.3f}")
    if edits := report.get("edits"):
        for name, row in [*edits["attributes"].items(), ("mean", edits["mean"])]:
            edited, truth, unedited = row["edited"], row["truth"], row["unedited"]
            out.append(
                f"edit {name:12} target {edited['target']:+.2f} (truth {truth['target']:+.2f})  "
                f"leak {edited['leak']:.2f} ({truth['leak']:.2f})  hit {edited['hit']:.2f}  "
                f"MSE to truth {edited['mse']:.4f} (unedited {unedited['mse']:.4f})"
            )
    if pictures := report.get("pictures"):
        distance = pictures["fd_efflite0"]
        out.append(f"FD-EffLite0 of {pictures['n']}: z {distance['z']:.1f}, real {distance['real']:.1f}")
        if read := pictures.get("judge"):
            out.append("judge's AUROC on them: " + ", ".join(f"{name} {score:.3f}" for name, score in read.items()))
    seconds = report["seconds"]
    out.append(
        f"{sum(seconds.values()):.0f} processor seconds: "
        + ", ".join(f"{name} {value:g}" for name, value in seconds.items())
    )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--judge", type=Path, help="folder of the judge; without it no edits are judged")
    parser.add_argument("--number", type=int, default=Extent.number, help="training images for the probes")
    parser.add_argument("--method", choices=get_args(Method), default=Extent.method, help="direction of edits")
    parser.add_argument("--edited", nargs="+", default=EDITED, metavar="ATTRIBUTE", help="attributes to edit")
    parser.add_argument("--skip", nargs="+", default=(), choices=PARTS, help="parts to leave out")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--sheet", type=Path, help="a PNG file for the edits of eight images")
    arguments = parser.parse_args()
    report = judge_z(
        api.load(arguments.run, kind=DiffusionAutoencoder), arguments.data, judge=arguments.judge,
        parts=tuple(part for part in PARTS if part not in arguments.skip), edited=tuple(arguments.edited),
        extent=Extent(number=arguments.number, method=arguments.method), sheet=arguments.sheet,
    )  # fmt: skip
    report = {"run": arguments.run, **report}
    print("\n".join(lines(report)))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.json, (json.dumps(report, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
