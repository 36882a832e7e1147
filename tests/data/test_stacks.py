"""Arrays in npy, npz and idx files: alone in a folder, and as whole sets of images."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from zsem.data.decoding import decode
from zsem.data.images import load_images
from zsem.data.limits import UnreadableImageError
from zsem.data.shaping import DEPTHS
from zsem.values.errors import ZsemError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 12, 12), dtype=np.uint8)
LABELS = np.arange(30) % 3


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    kind = array.dtype.str[1:]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, codes[kind], array.ndim, *array.shape)
    return head + array.astype(f">{kind}").tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<u2", ">i2", "f4", ">f8"])
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5), (5, 6, 7)])
def test_an_array_is_an_image_of_any_channels_and_depth(shape, kind, order):
    array = RNG.integers(0, 100, shape).astype(kind, order=order)
    expected = array.transpose(1, 2, 0) if shape == (5, 6, 7) else array.reshape(6, 7, -1)
    with io.BytesIO() as packed:
        np.savez_compressed(packed, anything=array)
        for data in (npy(array), packed.getvalue()):
            result = decode(data)
            assert result.dtype.name in DEPTHS and np.array_equal(result, expected)


def test_python_objects_are_never_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImageError, match="an array of object, not of numbers"):
        decode(file.getvalue())


def test_damaged_arrays_are_refused_before_they_cost_anything():
    data = npy(IMAGES[0])
    absurd = data.replace(b"(12, 12)", b"(9**9,9)")
    claims = data.replace(b"(12, 12), }    ", b"(12, 99999999),")
    for broken in (data[:-1], data + b"x", data[:40], data.replace(b"|u1", b"|V1"), absurd, claims):
        with pytest.raises(UnreadableImageError):
            decode(broken)
    with io.BytesIO() as packed:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", npy(np.zeros((4000, 4000), np.uint8)))
        bomb = packed.getvalue().replace(
            struct.pack("<I", len(npy(np.zeros((4000, 4000), np.uint8)))), b"\xff\xff\xff\xef"
        )
    with pytest.raises(UnreadableImageError, match="claims 4026531839 bytes"):
        decode(bomb)
    with io.BytesIO() as packed:
        np.savez(packed, a=IMAGES[0], b=IMAGES[1])
        with pytest.raises(UnreadableImageError, match="a npz file of 2 arrays: give it by itself"):
            decode(packed.getvalue())


def test_a_folder_of_arrays_with_many_channels(tmp_path):
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", RNG.normal(size=(6, 12, 13)))
    images = load_images(tmp_path, size=12)
    assert images.pixels.shape == (4, 6, 12, 12) and images.depth == "float32" and images.channels == 6
    assert np.array_equal(images.pixels[2].numpy(), np.load(tmp_path / "2.npy")[:, :, :12].astype(np.float32))


def test_arrays_of_other_channels_are_left_out_by_name(tmp_path):
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", IMAGES[: 4 if i == 2 else 5])
    with pytest.warns(UserWarning, match=r"2\.npy: an image of 4 channels, where most have 5"):
        images = load_images(tmp_path, size=None)
    assert images.channels == 5 and images.skipped == [("2.npy", "an image of 4 channels, where most have 5")]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("images", "labels"), False),
        (("X", "y"), False),
        (("arr_0", "y"), False),
        (("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"), True),
        (("x_train", "y_train", "x_test", "y_test"), True),
    ],
)
def test_npz_files_as_others_write_them(tmp_path, names, splits):
    arrays = {name: IMAGES if i % 2 == 0 else LABELS[:, None] for i, name in enumerate(names)}
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    images = load_images(tmp_path / "set.npz", size=None)
    assert len(images) == 30 * (len(names) // 2) and images.class_names == ["0", "1", "2"]
    for i, path in enumerate(images.paths):
        number = int(path.rpartition("/")[2])
        assert np.array_equal(images.pixels[i, 0].numpy(), IMAGES[number % 30])
        assert images.classes[i] == LABELS[number % 30]
    assert ("test" in images.splits) == splits
    assert ({path.split("/")[0] for path in images.paths} <= {"train", "val", "test"}) == splits


def test_labels_of_several_columns_are_attributes(tmp_path):
    several = RNG.integers(0, 2, (30, 2))
    np.savez(tmp_path / "a.npz", images=IMAGES.reshape(30, 1, 12, 12), labels=several)
    images = load_images(tmp_path / "a.npz", size=12)
    assert images.class_names == [] and images.attributes["label_1"].tolist() == several[:, 1].tolist()
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS / 7)
    assert load_images(tmp_path / "a.npz", size=12).attributes["label_0"][8] == np.float32(2 / 7)


def test_a_npy_file_of_four_axes_is_a_set(tmp_path):
    deep = RNG.integers(0, 65536, (5, 2, 12, 13)).astype(np.uint16)
    np.save(tmp_path / "a.npy", deep)
    images = load_images(tmp_path / "a.npy", size=None)
    assert images.depth == "uint16" and np.array_equal(images.pixels.numpy(), deep)
    assert len(set(images.sha256)) == 5
    np.save(tmp_path / "one.npy", deep[0])
    assert len(load_images(tmp_path / "one.npy", size=None)) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"masks": IMAGES, "scans": IMAGES}, r"no array named images or x, .* only masks \[30, 12, 12\], scans"),
        ({"x": IMAGES[:, 0]}, r"no array named images or x, .* only x \[30, 12\]: rename one"),
        ({"x": IMAGES, "y": LABELS[1:]}, r"has 30 images, and labels \[29\] of int64"),
        (b"PK\x03\x04 nothing", "cannot be read: "),
    ],
)
def test_npz_files_that_cannot_be_meant_are_one_sentence(tmp_path, content, sentence):
    if isinstance(content, bytes):
        (tmp_path / "a.npz").write_bytes(content)
    else:
        np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ZsemError, match=sentence):
        load_images(tmp_path / "a.npz", size=8)


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_of_mnist_and_its_kin(tmp_path, packed):
    for name, number in (("train", 24), ("t10k", 6)):
        for what, array in (("images-idx3", IMAGES[:number]), ("labels-idx1", LABELS[:number].astype("u1"))):
            data = idx(array)
            path = tmp_path / f"{name}-{what}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    images = load_images(tmp_path, size=12)
    assert images.splits.count("train") == 24 and images.splits.count("test") == 6
    assert images.class_names == ["0", "1", "2"] and images.channels == 1
    for i, split in enumerate(images.splits):
        number = int(images.paths[i].rpartition("/")[2]) - (6 if split == "train" else 0)  # t10k comes first
        assert np.array_equal(images.pixels[i, 0].numpy(), IMAGES[number]) and images.classes[i] == LABELS[number]
    alone = load_images(next(tmp_path.glob("t10k-images*")), size=12)
    assert len(alone) == 6 and alone.class_names == ["0", "1", "2"]
    assert len(load_images(tmp_path, size=12, split="test", limit=3)) == 3


def test_idx_files_of_other_numbers(tmp_path):
    deep = RNG.integers(-3000, 3000, (4, 5, 6)).astype(np.int16)
    (tmp_path / "scans-images-idx3-ubyte").write_bytes(idx(deep))
    images = load_images(tmp_path, size=None)
    assert images.depth == "int16" and np.array_equal(images.pixels[:, 0].numpy(), deep)


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"x" + d, lambda d: d[:3], lambda d: b""]
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_idx_files_are_named(tmp_path, change, packed):
    data = change(idx(IMAGES))
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ZsemError, match=r"train-images-idx3-ubyte cannot be read: .*; fetch it again"):
        load_images(tmp_path, size=8)
    claims = struct.pack(">BBBBIII", 0, 0, 8, 3, 60_000, 10_000, 10_000)
    path.write_bytes(gzip.compress(claims) if packed else claims)
    with pytest.raises(ZsemError, match=r"it claims \[60000, 10000, 10000\] values and has"):
        load_images(path, size=8)
