"""Images of other depths, sizes and channels through the command line, as people run it."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from zsem.data.decoding import decode

SMALL = [
    *("--preset", "nano", "--iterations", "3", "--training.batch-size", "4", "--keep-shape"),
    *("--model.z-dim", "8", "--model.unet.channels", "32", "--model.unet.channel-mult", "1"),
    *("--model.unet.patch", "4", "--model.encoder.patch", "4"),
    *("--model.encoder.channels", "32", "--model.encoder.channel-mult", "1", "--model.encoder.pool", "1"),
]


@pytest.fixture
def zsem(zsem):
    """Call the command line; gives what it says on stdout."""

    def call(*args: object) -> str:
        code, out, err = zsem(*args)
        assert code == 0, err
        return out

    return call


def waves(height: int, width: int, channels: int, number: int) -> np.ndarray:
    """Smooth images with values of 0 to 60,000, [h, w, c]."""
    rows, columns, bands = np.mgrid[:height, :width, :channels]
    return 30000 + 15000 * np.sin(rows / (5 + number) + bands) + 15000 * np.cos(columns / 6 + number)


def write(folder: Path, shape: tuple[int, int, int], kind: str, suffix: str, number: int = 6) -> Path:
    (folder / "a").mkdir(parents=True)
    for i in range(number):
        array = waves(*shape, i).astype(kind).squeeze()
        path = folder / "a" / f"{i}{suffix}"
        if suffix == ".npy":
            np.save(path, array)
        elif suffix == ".png":
            Image.fromarray(array).save(path)
        else:
            tifffile.imwrite(path, array, photometric="rgb" if shape[2] == 3 else "minisblack")
    return folder


@pytest.mark.parametrize(
    ("shape", "kind", "suffix", "written"),
    [
        ((100, 75, 1), "uint16", ".png", ".png"),
        ((11, 14, 3), "uint16", ".tif", ".tiff"),
        ((11, 14, 1), "int16", ".tif", ".tiff"),
        ((11, 14, 5), "uint16", ".npy", ".npy"),
    ],
)
def test_whole_numbers_come_back_to_the_bit_in_files_of_their_depth(zsem, tmp_path, shape, kind, suffix, written):
    images = write(tmp_path / "set", shape, kind if kind != "int16" else "uint16", suffix)
    if kind == "int16":
        for path in (images / "a").iterdir():
            tifffile.imwrite(path, (tifffile.imread(path).astype(int) - 32768).astype(np.int16))
    run, codes = tmp_path / "run", tmp_path / "codes.parquet"
    zsem("train", images, "--out", run, *SMALL)
    about = json.loads((run / "config.json").read_text())["config"]
    assert about["image_size"] == list(shape[:2]) and about["intensity"]["depth"] == kind
    zsem("encode", run, images, "--noise", "--out", codes)
    zsem("decode", run, codes, "--out", tmp_path / "decoded")
    figures = json.loads(zsem("reconstruct", run, images, "--out", tmp_path / "re", "--limit", "2", "--json"))
    assert figures["identical"] == 1 and figures["mse"] < 1e-10
    for folder, number in ((tmp_path / "decoded", 6), (tmp_path / "re" / "decoded", 2)):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(files) == number
        for path in files:
            original = decode((images / path.relative_to(folder)).with_suffix(suffix).read_bytes())
            assert path.suffix == written and original.dtype == kind
            assert np.array_equal(decode(path.read_bytes()), original)


def test_floats_come_back_nearly_in_tiff_files(zsem, tmp_path):
    images = write(tmp_path / "set", (12, 12, 1), "float32", ".tif")
    run = tmp_path / "run"
    zsem("train", images, "--out", run, "--window", "0", "25000", *SMALL)
    assert json.loads((run / "config.json").read_text())["config"]["intensity"] == {
        "kind": "window", "low": 0.0, "high": 25000.0, "depth": "float32",
    }  # fmt: skip
    figures = json.loads(zsem("reconstruct", run, images, "--out", tmp_path / "re", "--compare", "--json"))
    assert figures["identical"] == 1
    for path in (tmp_path / "re" / "decoded" / "a").iterdir():
        original = decode((images / "a" / path.stem).with_suffix(".tif").read_bytes())
        result = decode(path.read_bytes())
        assert path.suffix == ".tiff" and np.abs(result - original).max() < 25000 / 65535 / 2
        assert original.max() > 30000  # beyond the window, and not clipped
    zsem("vary", run, images, "--number", "1", "--limit", "2", "--out", tmp_path / "vary")
    assert len(list((tmp_path / "vary" / "a").glob("*.tiff"))) == 2 and (tmp_path / "vary" / "vary.png").exists()
    zsem("mix", run, images / "a" / "0.tif", images / "a" / "1.tif", "--out", tmp_path / "mix")
    assert (tmp_path / "mix" / "0--1.tiff").exists()


def test_info_tells_depths_ranges_groups_and_missing_labels(zsem, tmp_path):
    for i in range(24):
        path = tmp_path / ("cat" if i % 2 else "dog" if i else "") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 10), 100 * i, np.uint16)).save(path)
    rows = [f"{'cat' if i % 2 else 'dog'}/{i}.png,{i if i % 3 else ''},,P{i // 5}" for i in range(1, 24)]
    (tmp_path / "attributes.csv").write_text("\n".join(["path,age,grade,patient", *rows]))
    about = json.loads(zsem("data", "info", tmp_path, "--group", "patient", "--json"))
    assert about["depths"] == {"uint16": 24} and about["sizes"] == {"10 x 8": 24}
    assert (about["low"], about["high"]) == (0, 2300)
    assert about["groups"] == {"n": 5, "largest": 5, "without": 1} and about["without_class"] == 1
    assert about["attributes"]["age"]["missing"] == 8
    assert about["attributes"]["grade"] == {"mean": None, "missing": 24}
    out = zsem("data", "info", tmp_path, "--group", "patient")
    assert "24 images, grey, uint16 (24), values from 0 to 2300" in out
    assert "5 groups, the largest of 5, 1 without" in out and "without a class: 1" in out
    assert "attribute grade: nothing known, 24 missing" in out


def test_what_a_grouped_training_held_out_is_what_reconstruct_calls_val(zsem, tmp_path):
    images = write(tmp_path / "set", (8, 8, 1), "uint16", ".png", number=12)
    groups = [f"a/{i}.png,P{i // 4}" for i in range(12)]
    (images / "attributes.csv").write_text("\n".join(["path,patient", *groups]))
    zsem("train", images, "--out", tmp_path / "run", "--group", "patient", *SMALL)
    trained = json.loads(zsem("info", tmp_path / "run", "--json"))["history"]["train_images"]
    assert trained in {4, 8}
    zsem("reconstruct", tmp_path / "run", images, "--split", "val", "--out", tmp_path / "re")
    shown = {int(path.stem) // 4 for path in (tmp_path / "re" / "decoded" / "a").iterdir()}
    assert len(shown) == (12 - trained) // 4
