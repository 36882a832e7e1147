import hashlib
import io
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data.images import ImageSet, load_image, load_images, load_originals
from zsem.values.errors import ZsemError

RNG = np.random.default_rng(1)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def colours(number: int, size: int = 8) -> list[np.ndarray]:
    return list(RNG.integers(0, 256, (number, size, size, 3), dtype=np.uint8))


@pytest.fixture
def files() -> dict[str, bytes]:
    """Two classes, a table, and things that are no images."""
    arrays = colours(24)
    files = {f"{'cat' if i % 2 else 'dog'}/{i}.png": png(array) for i, array in enumerate(arrays)}
    files["attributes.csv"] = b"path,old\n" + b"".join(f"{path},{i}\n".encode() for i, path in enumerate(files))
    files["README.txt"] = b"hello"
    files[".hidden/x.png"] = files["cat/._1.png"] = b"no image"
    return files


def write(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def pack(path: Path, files: dict[str, bytes], prefix: str = "") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(prefix + name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def assert_same(a: ImageSet, b: ImageSet) -> None:
    assert torch.equal(a.pixels, b.pixels) and torch.equal(a.classes, b.classes)
    for name in ("paths", "class_names", "splits", "sha256", "skipped", "notes"):
        assert getattr(a, name) == getattr(b, name)
    assert a.attributes.keys() == b.attributes.keys()
    assert all(np.array_equal(a.attributes[name], b.attributes[name]) for name in a.attributes)


def test_a_folder_gives_pixels_paths_classes_attributes_and_hashes(tmp_path, files):
    images = load_images(write(tmp_path, files), size=8)
    assert images.paths[:3] == ["cat/1.png", "cat/3.png", "cat/5.png"] and images.paths[11] == "cat/23.png"
    assert len(images) == 24 and images.pixels.shape == (24, 3, 8, 8) and images.pixels.dtype == torch.uint8
    assert images.class_names == ["cat", "dog"] and images.classes.tolist() == [0] * 12 + [1] * 12
    for i, path in enumerate(images.paths):
        data = files[path]
        assert torch.equal(images.pixels[i], load_image(data, 8, 3))
        assert images.sha256[i] == hashlib.sha256(data).hexdigest()
        assert images.attributes["old"][i] == int(Path(path).stem)
    assert images.skipped == [] and images.notes == []
    assert set(images.splits) == {"train", "val"}
    assert (images.size, images.channels) == (8, 3)


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.tgz", "set.zip"])
@pytest.mark.parametrize("prefix", ["", "./", "portraits/"])
def test_archives_give_what_the_folder_gives(tmp_path, files, name, prefix):
    folder = load_images(write(tmp_path / "folder", files), size=8)
    archive = pack(tmp_path / name, files, prefix)
    for options in ({}, {"limit": 5}, {"split": "val"}, {"split": "train", "limit": 3}):
        expected = folder
        if "split" in options:
            expected = expected.split(options["split"])
        assert_same(load_images(archive, size=8, **options), expected.limit(options.get("limit")))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", name]  # nothing was unpacked


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_originals_are_the_images_before_they_were_cropped(tmp_path, kind):
    arrays = [RNG.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(5)]
    files = {f"all/{'ab'[i % 2]}/{i}.png": png(array) for i, array in enumerate(arrays)}
    source = write(tmp_path / "folder", {path.removeprefix("all/"): data for path, data in files.items()})
    if kind == "zip":
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w") as file:
            for path, data in files.items():
                file.writestr(path, data)
    elif kind == "tar":
        source = tmp_path / "set.tar"
        with tarfile.open(source, "w") as file:
            for path, data in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    some = load_images(source, size=8, channels=3).subset([4, 0, 2])
    found = dict(load_originals(source, some))
    assert sorted(found) == [0, 1, 2]
    for place, path in enumerate(some.paths):
        array = arrays[int(Path(path).stem)]
        assert np.array_equal(found[place].permute(1, 2, 0).numpy(), array)
    grey = dict(load_originals(source, load_images(source, size=8, channels=1).limit(1)))
    assert grey[0].shape[0] == 1


def test_given_splits_and_their_classes(tmp_path):
    paths = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"]
    images = load_images(write(tmp_path, {path: png(a) for path, a in zip(paths, colours(3), strict=True)}), size=8)
    assert dict(zip(images.paths, images.splits, strict=True)) == {
        paths[2]: "test",
        paths[0]: "train",
        paths[1]: "train",
    }
    assert images.class_names == ["cat", "dog"]
    assert images.held_out().paths == ["test/cat/1.png"]
    with pytest.raises(ZsemError, match=r"no images in the split 'val', only in test \(1\), train \(2\)"):
        load_images(tmp_path, size=8, split="val")
    with pytest.raises(ZsemError, match="no split 'dev'"):
        load_images(tmp_path, size=8, split="dev")


def test_two_images_have_one_held_out_and_one_alone_has_none(tmp_path):
    a, b = (png(array) for array in colours(2))
    images = load_images(write(tmp_path, {"a.png": a, "b.png": b}), size=8)
    assert len(images.split("train")) == len(images.held_out()) == 1
    with pytest.raises(ZsemError, match="no held-out images"):
        load_images(tmp_path / "a.png", size=8).held_out()


def test_single_files_and_lists_of_files(tmp_path, files):
    write(tmp_path, files)
    one = load_images(tmp_path / "cat" / "1.png", size=8)
    assert one.paths == ["1.png"] and one.class_names == []
    several = load_images([tmp_path / "dog/10.png", str(tmp_path / "dog/2.png"), tmp_path / "cat/1.png"], size=8)
    assert several.paths == ["cat/1.png", "dog/2.png", "dog/10.png"]
    with pytest.raises(ZsemError, match="the list of images is empty"):
        load_images([], size=8)
    with pytest.raises(ZsemError, match=r"no\.png does not exist"):
        load_images([tmp_path / "no.png"], size=8)


def test_broken_images_are_named_and_left_out(tmp_path):
    good, other = (png(array) for array in colours(2))
    write(tmp_path, {"a.png": good, "b/cut.png": good[:60], "c.jpg": b"text", "d.png": b"", "e.png": other})
    (tmp_path / "f.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match=r"4 of 6 images of .* were left out: b/cut\.png: damaged .*; c\.jpg: not an"):
        images = load_images(tmp_path, size=8)
    assert images.paths == ["a.png", "e.png"]
    reasons = dict(images.skipped)
    assert list(reasons) == ["b/cut.png", "c.jpg", "d.png", "f.png"]
    assert reasons["d.png"] == "an empty file" and reasons["f.png"] == "No such file or directory"
    assert len(images.held_out()) == 1


def test_nothing_to_read_is_one_sentence(tmp_path):
    cases = {
        tmp_path / "nowhere": "nowhere does not exist: give a folder, an archive",
        write(tmp_path / "empty", {"readme.md": b"x"}): "empty holds no images",
        write(
            tmp_path / "bad", {"1.png": b"x", "2.png": b"y"}
        ): r"no image that can be read: 1\.png is not an image, and 1 more",
        write(tmp_path, {"notes.txt": b"x"}) / "notes.txt": "neither a folder, nor a tar or zip archive",
        write(tmp_path, {"a.tar": b"x" * 2000}) / "a.tar": "damaged or not a tar archive",
        write(tmp_path, {"a.zip": b"x" * 2000}) / "a.zip": "damaged or not a zip archive",
    }
    for source, sentence in cases.items():
        with pytest.raises(ZsemError, match=sentence) as caught:
            load_images(source, size=8)
        assert "\n" not in str(caught.value)
    with pytest.raises(ZsemError, match="a limit of 0"):
        load_images(tmp_path / "empty", size=8, limit=0)


def test_a_truncated_archive_is_refused(tmp_path, files):
    for name in ("a.tar", "a.tar.gz"):
        whole = pack(tmp_path / name, files).read_bytes()
        # inside a header, inside an image, between two files
        for length in (len(whole) // 3, 3 * 512 + 100, 512 * 4, 100, 512 * 10):
            (tmp_path / name).write_bytes(whole[: min(length, len(whole) - 20)])
            for options in ({}, {"limit": 2}):
                with pytest.raises(ZsemError, match="damaged or not a tar archive"):
                    load_images(tmp_path / name, size=8, **options)


def test_damage_inside_a_zip_is_named(tmp_path, files):
    path = pack(tmp_path / "a.zip", files)
    data = bytearray(path.read_bytes())
    data[60] ^= 255  # inside the first, stored, image: its checksum fails
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="1 of 24 images"):
        images = load_images(path, size=8)
    assert images.skipped[0][0] == "dog/0.png" and "Bad CRC-32" in images.skipped[0][1]


def test_archive_members_that_lead_elsewhere_are_left_out(tmp_path):
    good, other = (png(array) for array in colours(2))
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (("x/a.png", good), ("../evil.png", good), ("/x/b.png", other)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("x/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.warns(UserWarning, match="2 of 4"):
        images = load_images(path, size=8)
    assert images.paths == ["x/a.png", "x/b.png"]
    assert dict(images.skipped) == {
        "../evil.png": "its path leads out of the archive",
        "x/link.png": "a link, which is not followed",
    }


def test_linked_folders_are_followed_once(tmp_path):
    write(tmp_path / "real", {"1.png": png(colours(1)[0])})
    root = tmp_path / "root"
    root.mkdir()
    (root / "train").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(root)
    assert load_images(root, size=8).paths == ["train/1.png"]


def test_channels_follow_the_images_unless_they_are_given(tmp_path):
    colour, grey = png(colours(1)[0]), png(colours(1)[0][..., 0])
    grey_as_rgb = png(np.repeat(colours(1)[0][..., :1], 3, axis=2))
    all_grey = write(tmp_path / "grey", {"1.png": grey, "2.png": grey_as_rgb})
    assert load_images(all_grey, size=8).channels == 1
    assert torch.equal(load_images(all_grey, size=8).pixels, load_images(all_grey, size=8, channels=1).pixels)
    assert load_images(all_grey, size=8, channels=3).channels == 3
    mixed = load_images(write(tmp_path / "mixed", {"1.png": grey, "2.png": grey_as_rgb, "3.png": colour}), size=8)
    assert mixed.channels == 3 and torch.equal(mixed.pixels[0], load_image(grey, 8, 3))
    assert mixed.notes == ["1 of 3 images have colours, so all are RGB; ask for 1 channel to have grey"]
    assert torch.equal(load_images(tmp_path / "mixed", size=8, channels=1).pixels[2], load_image(colour, 8, 1))


def test_resizing_gives_what_load_image_gives(tmp_path):
    array = RNG.integers(0, 256, (50, 31, 3), dtype=np.uint8)
    images = load_images(write(tmp_path, {"a.png": png(array)}), size=16)
    assert torch.equal(images.pixels[0], load_image(array, 16, 3))


def test_limit_sees_every_class_and_keeps_splits_and_progress_reports(tmp_path, files):
    write(tmp_path, files)
    calls = []
    everything = load_images(tmp_path, size=8, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (24, 24) and [done for done, _ in calls] == sorted(done for done, _ in calls)
    few = load_images(tmp_path, size=8, limit=6)
    assert len(few) == 6 and set(few.classes.tolist()) == {0, 1} and few.class_names == ["cat", "dog"]
    assert len(few.held_out()) >= 1
    of = dict(zip(everything.paths, everything.splits, strict=True))
    assert few.splits == [of[path] for path in few.paths]


def test_subset_keeps_everything_aligned(tmp_path, files):
    images = load_images(write(tmp_path, files), size=8)
    some = images.subset([5, 2])
    assert some.paths == [images.paths[5], images.paths[2]] and some.sha256[1] == images.sha256[2]
    assert torch.equal(some.pixels, images.pixels[[5, 2]]) and torch.equal(some.classes, images.classes[[5, 2]])
    assert some.attributes["old"].tolist() == [images.attributes["old"][5], images.attributes["old"][2]]
    assert images.limit(None) is images and len(images.subset([])) == 0


def test_oddities_that_pillow_only_warns_of_are_no_noise(tmp_path):
    palette = Image.fromarray(colours(1)[0]).quantize(4)
    palette.save(tmp_path / "p.png", transparency=b"\x00\xff\x80\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert len(load_images(tmp_path, size=8)) == 1


def test_nothing_is_resized_where_no_size_is_given(tmp_path):
    arrays = list(RNG.integers(0, 256, (4, 100, 75, 3), dtype=np.uint8))
    write(tmp_path / "a", {f"{i}.png": png(array) for i, array in enumerate(arrays)})
    images = load_images(tmp_path / "a", size=None)
    assert images.size == (100, 75) and np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), np.stack(arrays))
    assert torch.equal(load_images(tmp_path / "a", size=(100, 75)).pixels, images.pixels)
    assert load_images(tmp_path / "a", size=(20, 30)).size == (20, 30)
    write(tmp_path / "a", {"odd.png": png(arrays[0][:75])})
    with pytest.raises(ZsemError, match=r"75 x 75 \(odd\.png\), 100 x 75 \(0\.png\): give a size for all of them"):
        load_images(tmp_path / "a", size=None)
    with pytest.raises(ZsemError, match="images of 0 x 0 pixels cannot be"):
        load_images(tmp_path / "a", size=0)


def test_sixteen_bit_files_are_kept_as_they_are(tmp_path):
    deep = RNG.integers(0, 65536, (4, 8, 8)).astype(np.uint16)
    write(tmp_path, {f"{i}.png": png(array) for i, array in enumerate(deep)})
    images = load_images(tmp_path, size=8)
    assert images.depth == "uint16" and np.array_equal(images.pixels[:, 0].numpy(), deep)
    assert images.originals[2].low == deep[2].min() and images.originals[2].high == deep[2].max()
    assert torch.equal(images.subset([2]).pixels, images.pixels[2:3])
    assert torch.equal(load_image(tmp_path / "1.png", 8, 1, depth=None), images.pixels[1])
    with pytest.raises(ZsemError, match=r"0\.png is an image of uint16 values, where uint8 is wanted"):
        load_images(tmp_path, size=8, depth="uint8")


def test_eight_bits_join_sixteen_and_other_depths_stay_apart(tmp_path):
    eight, deep = colours(1)[0][..., 0], RNG.integers(0, 65536, (8, 8)).astype(np.uint16)
    write(tmp_path, {"a.png": png(eight), "b.png": png(deep)})
    images = load_images(tmp_path, size=8)
    assert np.array_equal(images.pixels[0, 0].numpy(), eight.astype(np.uint16) * 257)
    assert np.array_equal(images.pixels[1, 0].numpy(), deep)
    assert "images of 8 and of 16 bits, uint16 (b.png), uint8 (a.png): all are taken as 16 bits" in images.notes[0]
    np.save(tmp_path / "c.npy", deep / 7)
    with pytest.raises(
        ZsemError, match=r"several depths, float32 \(c\.npy\), uint16 \(b\.png\), uint8 \(a\.png\): conv"
    ):
        load_images(tmp_path, size=8)


def test_transparency_shows_the_chosen_background(tmp_path):
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(tmp_path / "a.png")
    assert load_images(tmp_path, size=8, background="#0000ff").pixels[0, :, 0, 0].tolist() == [0, 0, 255]
    with pytest.raises(ZsemError, match="no colour 'bluish'"):
        load_images(tmp_path, size=8, background="bluish")


@pytest.mark.parametrize("pack_as", [None, "set.tar.gz", "set.zip"])
def test_groups_are_never_divided_by_splits_or_limits(tmp_path, pack_as):
    files = {f"{i:02d}.png": png(array) for i, array in enumerate(colours(60))}
    table = "path,slide\n" + "".join(f"{path},S{i // 6}\n" for i, path in enumerate(files))
    files["attributes.csv"] = table.encode()
    source = pack(tmp_path / pack_as, files) if pack_as else write(tmp_path / "set", files)
    images = load_images(source, size=8, group="slide")
    assert images.groups == [f"S{i // 6}" for i in range(60)] and images.attributes == {} and images.notes == []
    split = dict(zip(images.groups, images.splits, strict=True))
    assert [split[group] for group in images.groups] == images.splits and set(split.values()) == {"train", "val"}
    assert_same(load_images(source, size=8, group="slide", split="val"), images.split("val"))
    assert_same(load_images(source, size=8, group="slide", limit=12), images.limit(12))
    assert load_images(source, size=8).notes == ["attributes.csv has texts in the column slide, which is no attribute"]


def test_a_group_column_without_a_table_and_groups_that_folders_divide(tmp_path):
    write(
        tmp_path, {f"{split}/{i}.png": png(array) for split in ("train", "test") for i, array in enumerate(colours(2))}
    )
    with pytest.raises(ZsemError, match=r"has no attributes.csv with a column 'slide' to group by"):
        load_images(tmp_path, size=8, group="slide")
    (tmp_path / "attributes.csv").write_text("path,group\ntrain/0.png,x\ntest/0.png,x\ntrain/1.png,y\ntest/1.png,\n")
    assert load_images(tmp_path, size=8).notes == ["the folders put images of 1 groups into several splits, e.g. of x"]


def test_too_many_broken_images_stop_the_reading(tmp_path):
    good = {f"good{i}.png": png(array) for i, array in enumerate(colours(10))}
    write(tmp_path, {**good, **{f"bad{i}.png": b"x" for i in range(9)}})
    with pytest.warns(UserWarning, match="9 of 19 images"):
        assert len(load_images(tmp_path, size=8)) == 10
    write(tmp_path, {f"bad{i}.png": b"x" for i in range(11)})
    with pytest.raises(
        ZsemError, match=r"11 of 21 images of .* cannot be read, e.g. bad0.png is not an image: mend them"
    ):
        load_images(tmp_path, size=8)


def test_a_few_broken_images_are_no_reason_to_stop(tmp_path):
    write(tmp_path, {"a.png": png(colours(1)[0]), **{f"bad{i}.png": b"x" for i in range(9)}})
    with pytest.warns(UserWarning, match="9 of 10 images"):
        assert len(load_images(tmp_path, size=8)) == 1
