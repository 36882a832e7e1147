"""Images that do not fit into memory: mapped from files, kept for the next time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from zsem.data import cache
from zsem.data.images import ImageSet, load_images
from zsem.values.errors import ZsemError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (30, 9, 9, 3), dtype=np.uint8)
SMALL = 1000
"""Bytes: four of these images."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path):
    for i, array in enumerate(COLOURS):
        path = tmp_path / "set" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array if i % 3 else array[:, :, 0]).save(path)
    (tmp_path / "set" / "broken.png").write_bytes(b"x")
    rows = [f"{'cat' if i % 2 else 'dog'}/{i}.png,{i},P{i // 4}" for i in range(30)]
    (tmp_path / "set" / "attributes.csv").write_text("\n".join(["path,age,group", *rows]))
    return tmp_path / "set"


def assert_same(a: ImageSet, b: ImageSet) -> None:
    assert torch.equal(a.pixels, b.pixels) and torch.equal(a.classes, b.classes)
    names = ("paths", "class_names", "splits", "sha256", "groups", "originals", "skipped", "notes", "depth", "size")
    assert all(getattr(a, name) == getattr(b, name) for name in names)
    assert all(np.array_equal(a.attributes[name], b.attributes[name], equal_nan=True) for name in a.attributes)


def read(source, **options) -> ImageSet:
    with pytest.warns(UserWarning, match=r"broken\.png: not an image"):
        return load_images(source, **{"size": 9, "memory": SMALL, **options})


def read_plainly(source, **options) -> ImageSet:
    """Decoded in memory, whatever the cache holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSEM_CACHE", str(source) + "-no-cache")
        images = read(source, memory=10**9, **options)
    assert not images.mapped
    return images


def test_a_mapped_set_is_the_one_in_memory(folder, home):
    plain = read_plainly(folder)
    assert not home.exists()
    mapped = read(folder)
    assert mapped.mapped and len(list(home.iterdir())) == 1
    assert_same(mapped, plain)
    for options in ({"limit": 20}, {"split": "train"}, {"channels": 1}, {"depth": "uint16"}, {"size": (4, 9)}):
        assert_same(read(folder, **options), read_plainly(folder, **options))
    assert len(list(home.iterdir())) == 6


def test_what_was_kept_is_used_again_without_decoding(folder, home, monkeypatch):
    first = read(folder)
    (entry,) = home.iterdir()
    times = [file.stat().st_mtime_ns for file in sorted(entry.iterdir())]
    monkeypatch.setattr("zsem.data.images.read_members", None)  # a second decoding would fail
    assert_same(read(folder), first)
    assert [file.stat().st_mtime_ns for file in sorted(entry.iterdir())] == times


@pytest.mark.parametrize("change", ["content", "new", "gone", "table"])
def test_other_files_are_read_anew_and_the_old_ones_removed(folder, home, change):
    read(folder)
    before = set(home.iterdir())
    if change == "content":
        Image.fromarray(COLOURS[0]).save(folder / "cat" / "1.png")
        os.utime(folder / "cat" / "1.png", ns=(1, 1))
    elif change == "new":
        Image.fromarray(COLOURS[0]).save(folder / "cat" / "99.png")
    elif change == "gone":
        (folder / "cat" / "1.png").unlink()
    else:
        (folder / "attributes.csv").write_text("path,weight\ncat/1.png,7")
    again = read(folder)
    assert len(set(home.iterdir())) == 1 and not before & set(home.iterdir())
    assert_same(again, read_plainly(folder))


def test_archives_lists_and_data_sets_are_mapped_too(folder, home, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "packed"), "gztar", folder)
    assert_same(read(archive), read_plainly(archive))
    files = sorted((folder / "cat").iterdir())
    mapped = load_images(files, size=9, memory=SMALL)
    singly = torch.cat([load_images(folder / "cat" / path, size=9, channels=3).pixels for path in mapped.paths])
    assert mapped.mapped and torch.equal(mapped.pixels, singly)
    kept = len(list(home.iterdir()))
    pixels = torch.from_numpy(COLOURS).permute(0, 3, 1, 2)
    images = load_images(TensorDataset(pixels), size=9, memory=SMALL)
    assert images.mapped and torch.equal(images.pixels, pixels)
    assert len(list(home.iterdir())) == kept  # it has no name to be found by again


@pytest.mark.parametrize("damage", ["cut", "index", "missing"])
def test_a_damaged_entry_is_read_anew(folder, home, damage):
    plain = read_plainly(folder)
    read(folder)
    (entry,) = home.iterdir()
    if damage == "cut":
        os.truncate(entry / "pixels.bin", 100)
    elif damage == "index":
        (entry / "index.json").write_text(json.dumps({"shape": [1]}))
    else:
        (entry / "pixels.bin").unlink()
    assert_same(read(folder), plain)


def test_subsets_of_a_mapped_set(folder, monkeypatch):
    plain, mapped = read_plainly(folder), read(folder)
    several = [[3, 1, 20], list(range(5, 15)), [], list(range(30))]
    for memory in (10**9, 0):  # in memory, and mapped again
        monkeypatch.setattr(cache, "memory_for_pixels", lambda memory=memory: memory)
        for indices in several:
            assert_same(mapped.subset(indices), plain.subset(indices))
        assert_same(mapped.split("train"), plain.split("train"))
    inside = mapped.subset(range(5, 15))
    assert inside.pixels.untyped_storage().data_ptr() == mapped.pixels.untyped_storage().data_ptr()


def test_pixels_of_a_mapped_set_can_be_written_to_without_harm(folder):
    first = read(folder)
    before = first.pixels.clone()
    first.pixels.zero_()
    assert torch.equal(read(folder).pixels, before)


def test_a_cache_without_room_is_one_sentence(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("ZSEM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ZsemError, match=r"too many for the memory, could not be written to .*file .*: set ZSEM_CACHE"):
        load_images(folder, size=9, memory=SMALL)


def test_images_whose_source_is_gone_and_parts_of_dead_processes_are_removed(folder, home, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    read(tmp_path / "copy")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    part = home / f"{cache._mark().rpartition('-')[0]}-{dead.stdout.decode().strip()}-abc"
    part.mkdir()
    mine = home / f"{cache._mark()}-abc"
    mine.mkdir()
    shutil.rmtree(tmp_path / "copy")
    read(folder)
    assert not part.exists() and mine.exists()
    mine.rmdir()
    (entry,) = home.iterdir()
    assert json.loads((entry / "about.json").read_text())["source"] == str(folder)


def test_a_killed_reading_leaves_nothing_that_is_read(folder, home):
    """Killed at several moments; the next reading gives all images."""
    plain = read_plainly(folder)
    code = f"""
        import warnings; warnings.simplefilter("ignore")
        from zsem.data.images import load_images
        print("ready", flush=True)
        while True:
            load_images({str(folder)!r}, size=9, memory={SMALL})
            import shutil; shutil.rmtree({str(home)!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for entry in home.iterdir() if home.exists() else ():
        if not entry.name.startswith("."):
            assert {file.name for file in entry.iterdir()} <= {"pixels.bin", "index.json", "about.json"}
    assert_same(read(folder), plain)
