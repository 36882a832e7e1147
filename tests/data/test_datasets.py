"""A torch Dataset as a set of images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from zsem.data.images import load_images
from zsem.values.errors import ZsemError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (20, 9, 9, 3), dtype=np.uint8)


class Listed(Dataset):
    def __init__(self, items, **about):
        self.items = items
        self.__dict__.update(about)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        return item() if callable(item) else item


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(COLOURS)


def assert_colours(images) -> None:
    assert len(images) == len(COLOURS)
    for i, path in enumerate(images.paths):
        number = int(path.rpartition("/")[2])
        assert np.array_equal(images.pixels[i].permute(1, 2, 0).numpy(), COLOURS[number])


def test_pictures_arrays_tensors_and_pairs_with_labels(tmp_path):
    Image.fromarray(COLOURS[0]).save(tmp_path / "a.png")
    kinds = [
        Image.fromarray,
        np.asarray,
        lambda a: torch.from_numpy(a).permute(2, 0, 1),
        lambda a: (torch.from_numpy(a).permute(2, 0, 1), 1),
        lambda a: [np.asarray(a), "cat"],
        lambda a: {"img": Image.fromarray(a), "label": torch.tensor(1)},
    ]
    for kind in kinds:
        assert_colours(load_images(Listed([kind(a) for a in COLOURS]), size=9))
    assert_colours(load_images(Streamed(), size=9))
    assert_colours(load_images(TensorDataset(torch.from_numpy(COLOURS).permute(0, 3, 1, 2)), size=9))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        assert np.array_equal(load_images(Listed([path]), size=9).pixels[0].permute(1, 2, 0).numpy(), COLOURS[0])


def test_labels_are_classes_named_by_the_data_set_and_numbers_are_attributes():
    items = [{"image": a, "label": i % 3 - 1, "age": np.float32(i), "note": "x"} for i, a in enumerate(COLOURS)]
    images = load_images(Listed(items, classes=["cat", "dog"]), size=9)
    assert images.class_names == ["cat", "dog"] and set(images.attributes) == {"age"}
    for i, path in enumerate(images.paths):
        number = int(path.rpartition("/")[2])
        assert images.attributes["age"][i] == number and images.classes[i] == number % 3 - 1
    assert set(images.splits) == {"train", "val"}
    some = load_images(Listed(items), size=9, limit=4)
    assert len(some) == 4 and some.class_names == ["0", "1"]


def test_deep_tensors_keep_their_channels_however_small_they_are():
    deep = torch.randn(3, 16, 4, 5)
    images = load_images(Listed(list(deep)), size=None)
    assert images.depth == "float32" and torch.equal(images.pixels, deep)


def test_items_that_cannot_be_read_are_named_and_mistakes_are_told(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    items = [*COLOURS[:3], lambda: Image.open(tmp_path / "cut.png"), tmp_path / "none.png", torch.zeros(2, 2, 2, 2)]
    with pytest.warns(UserWarning, match="3 of 6 images of the given Listed were left out"):
        images = load_images(Listed(items), size=9)
    assert [path for path, _ in images.skipped] == ["000003", "000004", "000005"]
    with pytest.raises(ZsemError, match="item 1 of the given Listed has a int where an image should be"):
        load_images(Listed([COLOURS[0], 5]), size=9)
    with pytest.raises(ZeroDivisionError):  # a mistake in the caller's own code is not hidden
        load_images(Listed([lambda: 1 // 0]), size=9)
