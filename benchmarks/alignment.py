"""How many faces `zsem align` finds, where it puts their eyes, and how near dlib's crops are.

    python benchmarks/alignment.py PHOTOS --models package/model [--predictor FILE] [--reference CHECKOUT] [--turn 0]
        [--sheet FILE] [--json FILE]

Found: photos with at least one face. Mirror: how far the landmarks of a photo and of its mirror image lie apart, as a
share of the crop's side. Eyes: where they are expected in the crop (the recipe's square around the landmarks found in
the photo), and how far from there they are when faces are looked for again in the crop.

With --predictor (dlib's shape_predictor_68_face_landmarks.dat, and dlib installed), which the official scripts use: the
distance between the corners of our squares and dlib's, as a share of dlib's side. With --reference (a checkout of
https://github.com/phizaz/diffae): the difference of pixels between our crops and those of its align.py with the same
landmarks, as its largest and its mean over all photos, at our supersampling and at its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from zsem.data.align import SUPERSAMPLING, align, ffhq_quad, five_points, side
from zsem.data.pixels import from_pil, grid, save_png
from zsem.data.reading import as_picture
from zsem.data.sources import open_source
from zsem.nets.faces import FaceFinder

SIZE = 256
SHOWN = 60
EYES = slice(0, 2)


def largest(finder: FaceFinder, image: Image.Image) -> np.ndarray | None:
    """Five points of the face with the largest square."""
    faces = [five_points(face.landmarks.double().numpy()) for face in finder.find(from_pil(image))]
    return max(faces, key=lambda points: side(ffhq_quad(points)), default=None)


def in_crop(points: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Points of the photo as shares of the crop's width and height."""
    axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], 1)
    return np.linalg.solve(axes, (points - quad[0]).T).T


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.hypot(*(a - b).T).mean())


class Dlib:
    """Landmarks as the official alignment scripts take them."""

    def __init__(self, predictor: str) -> None:
        import dlib

        self.detector, self.predictor = dlib.get_frontal_face_detector(), dlib.shape_predictor(predictor)

    def points(self, image: Image.Image) -> np.ndarray | None:
        pixels = np.asarray(image)
        faces = [self.predictor(pixels, box).parts() for box in self.detector(pixels, 1)]
        points = [five_points(np.array([(p.x, p.y) for p in parts], dtype=np.float64)) for parts in faces]
        return max(points, key=lambda points: side(ffhq_quad(points)), default=None)


class Reference:
    """DiffAE's align.py, without what it imports to find faces, and with the names that Pillow has removed since."""

    def __init__(self, checkout: str) -> None:
        for name in ("dlib", "requests"):
            if importlib.util.find_spec(name) is None:
                sys.modules[name] = ModuleType(name)
        for name, value in (("ANTIALIAS", Image.Resampling.LANCZOS), ("QUAD", Image.Transform.QUAD)):
            setattr(Image, name, value)
        spec = importlib.util.spec_from_file_location("diffae_align", Path(checkout) / "align.py")
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def crop(self, path: Path, points: np.ndarray, supersampling: int) -> np.ndarray:
        landmarks = np.zeros((68, 2))
        landmarks[36:42], landmarks[42:48], landmarks[48], landmarks[54] = points[[0, 1, 3, 4]]
        out = io.BytesIO()
        self.module.image_align(str(path), out, landmarks, output_size=SIZE, transform_size=SIZE * supersampling)
        with Image.open(out) as crop:
            return np.asarray(crop, dtype=np.int64)


def measure(
    photos: str,
    finder: FaceFinder,
    judge: Dlib | None = None,
    reference: Reference | None = None,
    turn: float = 0,
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    rows: list[dict[str, Any]] = []
    crops = []
    number = judged = 0
    for member in open_source(photos).members():
        image = as_picture(member.read()).rotate(turn, Image.Resampling.BICUBIC)
        number += 1
        dlibs = judge.points(image) if judge else None
        judged += dlibs is not None
        points = largest(finder, image)
        if points is None:
            continue
        quad = ffhq_quad(points)
        crop = align(image, quad, SIZE)
        crops.append(from_pil(crop))
        row: dict[str, Any] = {"expected": in_crop(points, quad)[EYES]}
        mirrored = largest(finder, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        if mirrored is not None:
            back = mirrored[[1, 0, 2, 4, 3]] * [-1, 1] + [image.width - 1, 0]
            row["mirror"] = apart(points, back) / side(quad)
        again = largest(finder, crop)
        if again is not None:
            row["again"] = apart((again[EYES] + 0.5) / SIZE, row["expected"])
        if reference is not None:
            with TemporaryDirectory() as folder:
                image.save(path := Path(folder) / "photo.png")
                for name, times in (("pixels", SUPERSAMPLING), ("pixels_4096", 4096 // SIZE)):
                    off = np.abs(reference.crop(path, points, times) - np.asarray(crop))
                    row[name] = [off.max(), off.mean()]
        if dlibs is not None:
            theirs = ffhq_quad(dlibs)
            row["corners"] = apart(quad, theirs) / side(theirs)
            row["side"] = side(quad) / side(theirs)
            row["dlib_eyes"] = in_crop(dlibs, quad)[EYES]
            row["dlib_off"] = apart(row["dlib_eyes"], in_crop(dlibs, theirs)[EYES])
        rows.append(row)
    return summary(rows, number, judged if judge else None), crops


def summary(rows: list[dict[str, Any]], number: int, judged: int | None) -> dict[str, Any]:
    figures: dict[str, Any] = {"photos": number, "found": len(rows), "found_by_dlib": judged}
    for name in ("expected", "again", "mirror", "corners", "side", "dlib_eyes", "dlib_off"):
        values = np.array([row[name] for row in rows if name in row])
        if len(values):
            mean, spread = values.mean(0).round(4).tolist(), values.std(0).round(4).tolist()
            figures[name] = {"n": len(values), "mean": mean, "std": spread}
    for name in ("pixels", "pixels_4096"):
        if values := [row[name] for row in rows if name in row]:
            figures[name] = {"max": int(np.max(values, 0)[0]), "mean": float(np.mean(values, 0)[1].round(4))}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--models", required=True)
    parser.add_argument("--predictor")
    parser.add_argument("--reference")
    parser.add_argument("--turn", type=float, default=0, help="turn every photo by so many degrees first")
    parser.add_argument("--sheet", type=Path, help="PNG file for the first crops")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge = Dlib(args.predictor) if args.predictor else None
    reference = Reference(args.reference) if args.reference else None
    figures, crops = measure(args.photos, FaceFinder.load(args.models), judge, reference, args.turn)
    for name, value in figures.items():
        print(f"{name:14}", value)
    if args.sheet:
        shown = torch.stack(crops[:SHOWN])[:, :, ::2, ::2]
        save_png(grid(*shown.split(12)), args.sheet)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
