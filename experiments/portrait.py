"""A portrait at 1,024 px edited at its full size by a model that was trained at 64 px.

    python -m experiments.portrait PORTRAITS [--minutes 10] [--out runs/portrait]

PORTRAITS is a set of 200 generated portraits of 256 px (CC0) in class folders `female` and `male`; another set needs
another PERSON and FACE. The packaged model of avatars learns them at 64 px by the commands that a user has; then one
held-out portrait, scaled up to 1,024 px, is edited within an ellipse around the face, within the mask that is found by
itself, without one, and with strength 0. Writes portrait.json, which says where the portrait changed, and portrait.png.
Stopped in its training, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from experiments.every_command import run
from experiments.tables import beside, table
from PIL import Image, ImageDraw

from zsem.data.images import load_images
from zsem.values.files import write_whole

LANCZOS = Image.Resampling.LANCZOS
ORIGINAL, SIDE, SHOWN = 256, 1024, 256
PERSON, GOAL = "male/7.jpg", "male=0.1"
FACE = (0.32, 0.1, 0.68, 0.62)
"""Left, top, right and bottom of this person's face, in shares of the photograph."""
COMPONENT = 2.0
"""How many standard deviations to go along the first principal component."""


def edits(out: Path) -> dict[str, list[str]]:
    """The options of every edit, by name."""
    component, face = out / "pca" / "pca_0.safetensors", ["--mask", str(out / "face.png")]
    return {
        "within the face": ["--set", GOAL, *face],
        "mask found": ["--set", GOAL, "--mask", "auto"],
        "no mask": ["--set", GOAL],
        "component, within the face": ["--direction", f"{component}={COMPONENT:g}", *face],
        "strength 0": ["--direction", f"{component}=0"],
    }


def prepare(portraits: str, out: Path, minutes: float, init: str) -> Path:
    """Train, learn what the class folders and the components mean, write photograph and face; the photograph's path."""
    model = out / "model"
    if not (out / "pca").exists():
        go_on = ["--resume"] if (model / "run.json").exists() else ["--init", init]
        run("train", portraits, "--out", model, "--minutes", f"{minutes:g}", *go_on)
        run("attributes", model, portraits)
        run("directions", model, portraits, "--method", "pca", "--components", "3", "--out", out / "pca")
    images = load_images(portraits, size=ORIGINAL)
    chosen = [row for row, path in enumerate(images.paths) if f"/{path}".endswith(f"/{PERSON}")]
    if len(chosen) != 1 or images.splits[chosen[0]] == "train":
        raise SystemExit(f"{portraits} holds no portrait {PERSON}, or training sees it: give the set of 200 portraits")
    pixels = images.pixels[chosen[0]].permute(1, 2, 0).numpy()
    photo = out / "photo" / "photo.png"
    photo.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((SIDE, SIDE), LANCZOS).save(photo)
    face = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(face).ellipse([SIDE * end for end in FACE], fill=255)
    face.save(out / "face.png")
    return photo


def changed(photo: Path, edited: Path, face: Path) -> dict[str, float]:
    """The shares of pixels that are not what they were, inside and outside the ellipse, and the largest difference."""
    before, after, inside = (np.asarray(Image.open(path)).astype(int) for path in (photo, edited, face))
    assert before.shape == after.shape == (SIDE, SIDE, 3)
    distance = np.abs(after - before).max(axis=2)
    return {
        "inside": float((distance[inside > 0] > 0).mean()),
        "outside": float((distance[inside == 0] > 0).mean()),
        "largest": float(distance.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training; default 10")
    parser.add_argument("--init", default="avatars-64", help="the model that learns; default avatars-64")
    parser.add_argument("--out", type=Path, default=Path("runs/portrait"), help="default runs/portrait")
    arguments = parser.parse_args()
    out = arguments.out
    photo = prepare(arguments.portraits, out, arguments.minutes, arguments.init)
    found, pictures = {}, {"portrait": photo}
    for name, options in edits(out).items():
        folder = out / "edits" / name.replace(" ", "-").replace(",", "")
        run("edit", out / "model", photo.parent, *options, "--full-size", "--out", folder)
        pictures[name] = folder / photo.name
        found[name] = changed(photo, pictures[name], out / "face.png")
    small = {name: Image.open(path).resize((SHOWN, SHOWN), LANCZOS) for name, path in pictures.items()}
    beside(small).save(out / "portrait.png")
    write_whole(out / "portrait.json", (json.dumps(found, indent=2) + "\n").encode())
    rows = [
        [name, f"{row['inside']:.1%}", f"{row['outside']:.1%}", f"{row['largest']:.0f}"] for name, row in found.items()
    ]
    print("\n".join(table(["edit", "pixels changed in the ellipse", "outside", "largest change of 255"], rows)))


if __name__ == "__main__":
    main()
