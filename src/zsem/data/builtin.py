"""Built-in image sets, written as ordinary folders of images: `avatars` (labelled faces) and `digits`."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageColor
from torch import Tensor

from zsem.data import avatar_faces
from zsem.data.avatar_faces import Face, Pose
from zsem.data.avatar_styles import STYLES, AvatarStyle
from zsem.values import draws
from zsem.values.errors import ZsemError

Jitter = Literal["none", "light", "mild"]
Progress = Callable[[int, int], None]

# shift and scale as fractions, rotation in degrees, brightness as a fraction; each is uniform in +- its bound
JITTER: dict[str, tuple[float, float, float, float]] = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "light": (0.04, 0.05, 4.0, 0.075),
    "mild": (0.08, 0.10, 8.0, 0.15),
}
HELD_OUT = 0.1
CONTRAST = 32  # a beard in the colour of the skin could not be seen
CHUNK = 100  # faces per task of a rendering process


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when all went well and vanishes otherwise."""
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rmdir()  # only ever an empty folder, see _already_there
        partial.rename(out)
    except OSError as error:
        raise ZsemError(f"{out} could not be written, and nothing of it was left: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _already_there(out: Path, record: str, settings: dict[str, Any]) -> bool:
    """True where `out` holds exactly what `settings` ask for; a ZsemError where it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / record).read_text("utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ZsemError(f"{out} is there already and is not a set made by this command: give another folder") from None
    if found == settings:
        return True
    differing = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
    raise ZsemError(f"{out} was made with other settings ({', '.join(differing)}): remove it or give another folder")


def draw_face(style: AvatarStyle, jitter: Jitter, seed: int, index: int) -> Face:
    """Face number `index` of the set with `seed`; attributes, parts and pose are drawn independently.

    The pose has the same underlying draw at every jitter level, only its size differs.
    """
    chances = draws.generator(seed, index, 0).random(len(style.rates))
    attributes = {name: bool(chance < rate) for (name, rate), chance in zip(style.rates.items(), chances, strict=True)}
    picks = draws.generator(seed, index, 1).random(len(style.parts))
    parts: dict[str, str] = {}
    for (slot, choices), pick in zip(style.parts.items(), picks, strict=True):
        if other := style.apart.get(slot):
            allowed = [colour for colour in choices if _contrast(colour, parts[other]) >= CONTRAST]
        else:
            allowed = choices
        parts[slot] = allowed[int(pick * len(allowed))]
    shift, scale, degrees, brightness = JITTER[jitter]
    x, y, s, d, b = draws.generator(seed, index, 2).uniform(-1, 1, 5)
    pose = Pose(
        shift_x=round(shift * x, 5),
        shift_y=round(shift * y, 5),
        scale=round(1 + scale * s, 5),
        degrees=round(degrees * d, 4),
        brightness=round(1 + brightness * b, 5),
    )
    return Face(parts=parts, attributes=_visible(style, attributes), pose=pose)


def _contrast(colour: str, other: str) -> int:
    """Largest difference of two colours' red, green and blue, 0..255."""
    return max(abs(a - b) for a, b in zip(ImageColor.getrgb(colour), ImageColor.getrgb(other), strict=True))


def _visible(style: AvatarStyle, attributes: dict[str, bool]) -> dict[str, bool]:
    """What is seen: an attribute that another one hides is absent."""
    hidden = {name for cover, name in style.hides.items() if attributes[cover]}
    return {name: value and name not in hidden for name, value in attributes.items()}


def avatars(
    out: str | Path,
    *,
    number: int = 10_000,
    size: int = 64,
    seed: int = 0,
    style: str = "avataaars",
    jitter: Jitter = "mild",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write `number` labelled cartoon faces of `size` x `size` RGB pixels into the folder `out`.

    `out/train` and `out/val` hold the images (the last tenth is `val`), `attributes.csv` their 0/1 attributes,
    `avatars.json` the settings and every face's parts and pose, from which `counterfactual` draws again. Face
    number i depends on (style, jitter, seed, i) alone. The folder appears whole or not at all; where it is there
    already with the same settings nothing is done.

    jitter: "mild" moves each face by up to 8 % and turns it by up to 8 degrees, scales it by up to 10 % and
        changes its brightness by up to 15 %; "light" is half of that, "none" aligns all faces.
    workers: processes that render; all cores where it is None. 1 renders in this process.
    progress: called with (faces done, faces in all).

    ZsemError: DiceBear is not installed, the style is unknown, a number is not positive, `out` holds other things.
    """
    if style not in STYLES:
        raise ZsemError(f"there is no avatar style {style!r}: choose one of {', '.join(STYLES)}")
    if jitter not in JITTER:
        raise ZsemError(f"there is no jitter {jitter!r}: choose one of {', '.join(JITTER)}")
    if number < 1 or size < 8:
        raise ZsemError(f"cannot draw {number} faces of {size} pixels: at least 1 face and 8 pixels are needed")
    out = Path(out)
    settings = {
        "style": style,
        "number": number,
        "size": size,
        "seed": seed,
        "jitter": jitter,
        "parts": hashlib.sha256(repr(STYLES[style]).encode()).hexdigest()[:12],  # other choices, other faces
        "versions": avatar_faces.versions(),
    }
    if _already_there(out, "avatars.json", settings):
        return out
    faces = [draw_face(STYLES[style], jitter, seed, index) for index in range(number)]
    paths = _paths(number)
    with _whole(out) as partial:
        for split in {path.split("/")[0] for path in paths}:
            (partial / split).mkdir()
        draw = functools.partial(avatar_faces.write, str(partial), style, size)
        _render_all(draw, list(zip(paths, faces, strict=True)), workers, progress)
        (partial / "attributes.csv").write_text(_attribute_table(paths, faces), "utf-8")
        (partial / "avatars.json").write_text(_record(settings, paths, faces), "utf-8")
    return out


def _paths(number: int) -> list[str]:
    held_out = round(number * HELD_OUT) or int(number > 1)
    return [f"{'train' if i < number - held_out else 'val'}/{i:06d}.png" for i in range(number)]


def _render_all(
    draw: Callable[[list[tuple[str, Face]]], int],
    faces: list[tuple[str, Face]],
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Call `draw` on all faces, in chunks shared by processes."""
    chunks = [faces[i : i + CHUNK] for i in range(0, len(faces), CHUNK)]
    workers = min(workers or os.cpu_count() or 1, len(chunks))
    done = 0
    if workers == 1:
        for chunk in chunks:
            done += draw(chunk)
            if progress:
                progress(done, len(faces))
        return
    # resvg holds the interpreter lock, so threads would not help; forking a process that runs torch can hang
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(draw, chunk) for chunk in chunks]):
            done += future.result()
            if progress:
                progress(done, len(faces))
    except BrokenProcessPool:
        raise ZsemError(
            "the processes that draw faces ended early: a script must call this below"
            " `if __name__ == '__main__':`, or with workers=1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _attribute_table(paths: list[str], faces: list[Face]) -> str:
    lines = [",".join(["path", *faces[0].attributes])]
    lines += [
        ",".join([path, *(str(int(value)) for value in face.attributes.values())])
        for path, face in zip(paths, faces, strict=True)
    ]
    return "\n".join(lines) + "\n"


def _record(settings: dict[str, Any], paths: list[str], faces: list[Face]) -> str:
    """avatars.json: columns rather than one object per face, which would be five times as long."""
    first = faces[0]
    poses = [asdict(face.pose) for face in faces]
    record = {
        "settings": settings,
        "paths": paths,
        "attributes": {name: [int(face.attributes[name]) for face in faces] for name in first.attributes},
        "parts": {slot: [face.parts[slot] for face in faces] for slot in first.parts},
        "pose": {name: [pose[name] for pose in poses] for name in poses[0]},
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


@functools.lru_cache(maxsize=4)
def _read_record(path: str, modified: int) -> dict[str, Any]:
    return json.loads(Path(path).read_text("utf-8"))


def counterfactual(folder: str | Path, index: int, attribute: str, value: bool) -> UInt8[Tensor, "c h w"]:
    """Face `index` of an avatars folder with one attribute set to `value` and all else as it is, pose included.

    It is drawn anew from `avatars.json`; where `value` is what the face already has it equals the stored image to
    the pixel. A hat hides the hair: putting one on also ends long hair, and long hair under a hat is refused.

    ZsemError: no avatars folder, no such face or attribute, another version of the drawing packages.
    """
    path = Path(folder) / "avatars.json"
    try:
        record = _read_record(str(path), path.stat().st_mtime_ns)
    except (OSError, ValueError):
        raise ZsemError(f"{path} cannot be read: counterfactuals need a folder made by `avatars`") from None
    settings = record["settings"]
    if settings["versions"] != avatar_faces.versions():
        raise ZsemError(
            f"the faces in {folder} were drawn with {settings['versions']}, installed are "
            f"{avatar_faces.versions()}: the drawings may differ, so make the set anew"
        )
    if attribute not in record["attributes"]:
        raise ZsemError(f"the faces in {folder} have no attribute {attribute!r}: {', '.join(record['attributes'])}")
    if not 0 <= index < settings["number"]:
        raise ZsemError(f"{folder} has faces 0 to {settings['number'] - 1}, not {index}")
    style = STYLES[settings["style"]]
    attributes = {name: bool(column[index]) for name, column in record["attributes"].items()}
    for cover, hidden in style.hides.items():
        if attribute == hidden and value and attributes[cover]:
            raise ZsemError(f"face {index} of {folder} has {cover}, beside which {hidden} cannot be seen")
    face = Face(
        parts={slot: column[index] for slot, column in record["parts"].items()},
        attributes=_visible(style, {**attributes, attribute: value}),
        pose=Pose(**{name: column[index] for name, column in record["pose"].items()}),
    )
    pixels = avatar_faces.render(settings["style"], face, settings["size"])
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def digits(out: str | Path, *, size: int = 32) -> Path:
    """Write scikit-learn's 1,797 handwritten digits (8 x 8, grey) enlarged to `size` pixels into the folder `out`.

    Folders `train/0` .. `val/9` give split and class; the last tenth, by other writers than the rest, is `val`.
    The folder appears whole or not at all; where it is there already with the same settings nothing is done.

    ZsemError: `size` is below 8, `out` holds other things.
    """
    from sklearn.datasets import load_digits

    if size < 8:
        raise ZsemError(f"digits have at least 8 pixels, not {size}")
    out = Path(out)
    settings = {"set": "digits", "size": size}
    if _already_there(out, "digits.json", settings):
        return out
    data: Any = load_digits()
    number = len(data.target)
    with _whole(out) as partial:
        for index, path in enumerate(_paths(number)):
            split, name = path.split("/")
            folder = partial / split / str(data.target[index])
            folder.mkdir(parents=True, exist_ok=True)
            grey = np.rint(data.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey).resize((size, size), Image.Resampling.NEAREST).save(folder / name)
        (partial / "digits.json").write_text(json.dumps({"settings": settings}) + "\n", "utf-8")
    return out
