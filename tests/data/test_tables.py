"""Parquet tables with encoded images, as the Hugging Face hub keeps them."""

import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zsem.data.images import load_images
from zsem.values.errors import ZsemError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 9, 9, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def hub_table(rows: range, **columns: list) -> pa.Table:
    """The layout that `datasets` writes: struct{bytes, path}, names of classes in the schema's metadata."""
    images = [{"bytes": png(COLOURS[i]), "path": f"{i}.png"} for i in rows]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            **columns,
        }
    )
    about = {
        "info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "a/dog"], "_type": "ClassLabel"}}}
    }
    return table.replace_schema_metadata({"huggingface": json.dumps(about)})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    for name, rows in (
        ("train-00000-of-00002", range(20)),
        ("train-00001-of-00002", range(20, 30)),
        ("validation-00000-of-00001", range(30, 40)),
    ):
        table = hub_table(rows, label=[i % 2 for i in rows], age=[float(i) if i % 3 else None for i in rows])
        pq.write_table(table, tmp_path / "data" / f"{name}.parquet", row_group_size=7)
    (tmp_path / "README.md").write_text("a dataset card")
    return tmp_path


def number(path: str) -> int:
    return int(path.rpartition("/")[2])


def test_the_hub_layout_gives_images_classes_attributes_and_splits(folder):
    images = load_images(folder, size=9)
    assert len(images) == 40 and images.class_names == ["a-dog", "cat"]
    for i, path in enumerate(images.paths):
        row = number(path)
        assert np.array_equal(images.pixels[i].permute(1, 2, 0).numpy(), COLOURS[row])
        assert images.class_names[images.classes[i]] == ["cat", "a-dog"][row % 2]
        assert images.splits[i] == ("train" if row < 30 else "val")
        age = images.attributes["age"][i]
        assert math.isnan(age) if row % 3 == 0 else age == row
    assert images.notes == [] and list(images.attributes) == ["age"]


def test_a_part_of_a_table_is_read_by_itself(folder):
    some = load_images(folder, size=9, split="val", limit=3)
    assert len(some) == 3 and all(30 <= number(path) < 40 for path in some.paths)
    one = load_images(folder / "data" / "train-00001-of-00002.parquet", size=9)
    assert len(one) == 10 and set(one.splits) == {"train", "val"}  # one split is divided by hash, as ever
    assert np.array_equal(one.pixels[0].permute(1, 2, 0).numpy(), COLOURS[20 + number(one.paths[0])])


def test_images_beside_a_table_come_first(folder):
    Image.fromarray(COLOURS[0]).save(folder / "a.png")
    assert load_images(folder, size=9).paths == ["a.png"]


def test_plain_columns_of_bytes_and_texts(tmp_path):
    table = pa.table({"png": [png(a) for a in COLOURS[:6]], "label": ["b", "a", None, "b", "", "a"]})
    pq.write_table(table, tmp_path / "t.parquet")
    images = load_images(tmp_path / "t.parquet", size=9)
    known = {number(path): images.classes[i].item() for i, path in enumerate(images.paths)}
    assert images.class_names == ["a", "b"] and known == {0: 1, 1: 0, 2: -1, 3: 1, 4: -1, 5: 0}


def test_groups_of_a_table_are_not_divided(tmp_path):
    patients = [f"P{i // 4}" for i in range(40)]
    pq.write_table(hub_table(range(40), patient=patients), tmp_path / "t.parquet")
    images = load_images(tmp_path, size=9, group="patient")
    assert images.groups == [patients[number(path)] for path in images.paths]
    splits = {}
    for group, split in zip(images.groups, images.splits, strict=True):
        assert splits.setdefault(group, split) == split
    assert set(splits.values()) == {"train", "val"}
    with pytest.raises(ZsemError, match="no column 'slide' to group by: choose one of image, patient"):
        load_images(tmp_path, size=9, group="slide")


def test_rows_without_an_image_are_named(tmp_path):
    rows = [
        {"bytes": png(COLOURS[0]), "path": None},
        None,
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": b"x", "path": ""},
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "t.parquet")
    with pytest.warns(UserWarning, match="3 of 4 images"):
        images = load_images(tmp_path, size=9)
    assert dict(images.skipped) == {
        "000001": "no image in its row",
        "000002": "its row has the path of a file, not the image",
        "000003": "not an image",
    }


def test_tables_that_hold_no_images_or_are_damaged_are_one_sentence(tmp_path):
    pq.write_table(pa.table({"z": [1.0], "name": ["a"]}), tmp_path / "codes.parquet")
    with pytest.raises(ZsemError, match=r"no column of encoded images .* only \['z', 'name'\]"):
        load_images(tmp_path, size=9)
    pq.write_table(hub_table(range(40)), tmp_path / "codes.parquet")
    data = (tmp_path / "codes.parquet").read_bytes()
    for broken in (b"PAR1", data[:-20], data[: len(data) // 2], data[:2000] + bytes(4000) + data[6000:]):
        (tmp_path / "codes.parquet").write_bytes(broken)
        with pytest.raises(ZsemError, match=r"codes.parquet is damaged or not a Parquet table \(.*\): fetch it again"):
            load_images(tmp_path, size=9)
