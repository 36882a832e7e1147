from dataclasses import replace

import numpy as np
import pytest
import torch

from zsem.data import annotations
from zsem.data.annotations import annotation_columns, class_attributes, with_labels
from zsem.data.images import ImageSet
from zsem.values.errors import ZsemError

CELEBA = """3
Smiling Young
000001.jpg  1 -1
000002.jpg -1 -1
000003.jpg  1  1
"""


@pytest.fixture
def bare() -> ImageSet:
    """Four images without labels."""
    return ImageSet(
        pixels=torch.zeros(4, 1, 2, 2, dtype=torch.uint8), paths=[f"x/00000{i}.png" for i in (1, 2, 3, 9)],
        class_names=[], classes=torch.full((4,), -1), attributes={}, splits=["train"] * 4, sha256=[""] * 4,
        source="nowhere",
    )  # fmt: skip


def test_celebas_annotations_are_read_by_the_names_of_images(bare, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(CELEBA)
    found = with_labels(bare, path)
    np.testing.assert_array_equal(found.images.attributes["Smiling"], [1, 0, 1, np.nan])
    np.testing.assert_array_equal(found.images.attributes["Young"], [0, 0, 1, np.nan])
    assert found.classes == () and found.images.attributes["Young"].dtype == np.float32


def test_annotations_of_other_images_beside_these_are_passed_over(bare, tmp_path):
    (tmp_path / "images").mkdir()
    strange = replace(bare, paths=["a.png", "b.png", "c.png", "d.png"], source=str(tmp_path / "images"))
    labelled = replace(strange, attributes={"red": np.ones(4, np.float32)})
    (tmp_path / annotations.ANNOTATIONS[0]).write_text(CELEBA)
    assert list(with_labels(labelled).images.attributes) == ["red"]
    with pytest.raises(ZsemError, match="has no labels"):
        with_labels(strange)
    (tmp_path / "images" / annotations.ANNOTATIONS[0]).write_text(CELEBA)
    with pytest.raises(ZsemError, match="names none of these images"):  # those in the folder are meant for it
        with_labels(labelled)


@pytest.mark.parametrize("name", annotations.ANNOTATIONS)
@pytest.mark.parametrize("place", ["images", "."])
def test_annotations_are_found_beside_the_images(bare, tmp_path, name, place):
    (tmp_path / "images").mkdir()
    (tmp_path / place / name).write_text(CELEBA)
    images = replace(bare, source=str(tmp_path / "images"), attributes={"red": np.ones(4, np.float32)})
    assert list(with_labels(images).images.attributes) == ["red", "Smiling", "Young"]


def test_each_class_is_an_attribute_but_one_of_two_is_enough(bare):
    three = replace(bare, class_names=["a", "b", "c"], classes=torch.tensor([0, 1, 2, -1]))
    found = with_labels(three)
    assert found.classes == ("a", "b", "c")
    np.testing.assert_array_equal(found.images.attributes["b"], [0, 1, 0, np.nan])
    two = class_attributes(replace(bare, class_names=["cat", "dog"], classes=torch.tensor([0, 1, 1, 0])))
    assert list(two) == ["dog"]
    np.testing.assert_array_equal(two["dog"], [0, 1, 1, 0])
    assert class_attributes(replace(bare, class_names=["all"], classes=torch.zeros(4, dtype=torch.long))) == {}


def test_what_is_wrong_with_labels_is_said(bare, tmp_path):
    with pytest.raises(ZsemError, match=r"nowhere has no labels: put a table attributes\.csv"):
        with_labels(bare)
    path = tmp_path / "list.txt"
    for text, match in {
        "path,smile\n": "not in CelebA's format",
        CELEBA.replace("3\n", "4\n", 1): "says 4 images and has 3",
        CELEBA.replace("-1 -1", "0 -1"): r"image 2 \(000002.jpg\) needs 1 or -1 for each of 2",
    }.items():
        path.write_text(text)
        with pytest.raises(ZsemError, match=match):
            with_labels(bare, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ZsemError, match="is no text"):
        with_labels(bare, path)
    with pytest.raises(ZsemError, match="cannot be read: No such file"):
        with_labels(bare, tmp_path / "none.txt")
    path.write_text(CELEBA)
    with pytest.raises(ZsemError, match="names none of these images"):
        annotation_columns(path, ["a/77.png"])
    with pytest.raises(ZsemError, match=r"attribute Young comes from .*list\.txt and from elsewhere"):
        with_labels(replace(bare, attributes={"Young": np.ones(4, np.float32)}), path)
