import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsem.data import labels
from zsem.values.errors import ZsemError

NAMES = st.lists(st.from_regex(r"[a-c]/[a-z0-9]{1,6}\.png", fullmatch=True), unique=True, min_size=2, max_size=40)


def test_top_level_folders_give_the_split():
    paths = ["train/a/1.png", "valid/a/1.png", "validation/b/2.png", "val/3.png", "test/b/1.png"]
    assert labels.splits(paths) == ["train", "val", "val", "val", "test"]


def test_a_class_that_is_called_test_is_no_split():
    paths = [f"{name}/{i}.png" for name in ("apple", "test") for i in range(20)]
    assert "test" not in labels.splits(paths)
    assert labels.classes(paths)[0] == ["apple", "test"]


def test_images_beside_the_split_folders_are_for_training_and_can_be_named():
    paths = ["train/a/1.png", "test/a/2.png", "logo.png", "docs/figure.png"]
    assert labels.splits(paths) == ["train", "test", "train", "train"]
    assert labels.outside_splits(paths) == ["logo.png", "docs/figure.png"]
    assert labels.outside_splits(["a/1.png", "b/2.png"]) == []


def test_a_train_folder_alone_is_split_by_hash():
    paths = [f"train/{i}.png" for i in range(400)]
    assert set(labels.splits(paths)) == {"train", "val"}
    assert labels.classes(paths)[0] == []


def test_about_a_tenth_is_held_out():
    counts = collections.Counter(labels.splits([f"scans/{i:05d}.png" for i in range(5000)]))
    assert 0.08 < counts["val"] / 5000 < 0.12 and counts["test"] == 0


@settings(deadline=None, max_examples=60)
@given(NAMES, st.data())
def test_split_does_not_depend_on_order_and_always_holds_something_out(paths, data):
    split = dict(zip(paths, labels.splits(paths), strict=True))
    assert set(split.values()) == {"train", "val"}
    shuffled = data.draw(st.permutations(paths))
    assert dict(zip(shuffled, labels.splits(shuffled), strict=True)) == split


def test_adding_files_moves_no_image_of_a_large_set():
    paths = [f"{i}.png" for i in range(300)]
    assert labels.splits([*paths, *(f"new/{i}.png" for i in range(300))])[:300] == labels.splits(paths)


def test_own_folder_is_the_class():
    paths = ["train/cat/1.png", "train/wild/dog/2.png", "test/cat/3.png", "train/4.png"]
    names, numbers = labels.classes(paths)
    assert names == ["cat", "dog"] and numbers.tolist() == [0, 1, 0, -1]


@pytest.mark.parametrize("paths", [["a/1.png", "a/2.png"], ["1.png", "2.png"], ["train/x/1.png", "val/x/2.png"]])
def test_one_folder_is_no_class(paths):
    names, numbers = labels.classes(paths)
    assert names == [] and numbers.tolist() == [-1, -1]


def test_wrapping_folder():
    assert labels.wrapping_folder(["p/a/1.png", "p/2.png"]) == "p/"
    assert labels.wrapping_folder(["p/a/1.png", "2.png"]) == ""
    assert labels.wrapping_folder(["train/a/1.png", "train/b/1.png"]) == ""


def read(text: str, paths: list[str], known: list[str] | None = None):
    return labels.read_table(text.encode()).columns(paths, frozenset(known or paths))


def test_attributes_are_read_in_the_order_of_the_images():
    values, notes = read("path,age,smile\nb/2.png,0.5,1\n./a\\1.png, 40 ,0\n\n", ["a/1.png", "b/2.png"])
    assert values["age"].tolist() == [40, 0.5] and values["smile"].tolist() == [0, 1]
    assert values["age"].dtype == np.float32 and notes == []


def test_blank_cells_and_missing_rows_are_missing():
    values, notes = read("\ufefffile,age\na.png,\nb.png,3\nz.png,1\n", ["a.png", "b.png", "c.png"])
    assert np.isnan(values["age"]).tolist() == [True, False, True]
    assert notes == [
        "attributes.csv has 1 rows about images that are not there, e.g. z.png",
        "attributes.csv has no row for 1 of 3 images",
    ]


def test_rows_about_images_that_are_there_but_not_wanted_need_no_note():
    assert read("p,x\na.png,1\nb.png,2\n", ["a.png"], ["a.png", "b.png"])[1] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,smile\nb.png,1\na.png,yes\n", "'yes' in line 3, column smile: write a number"),
        ("path,smile\n\na.png,inf\n", "'inf' in line 3, column smile"),
        ("path,smile\na.png,1,2\n", "3 cells in line 2, but 2 in its first line"),
        ("path,smile\na.png,1\na.png,0\n", "names a.png a second time in line 3"),
        ("path;smile\na.png;1\n", "needs a first line such as path,glasses,smile"),
        ("path,x,x\na.png,1,1\n", "different attribute names"),
        ("", "needs a first line"),
    ],
)
def test_errors_in_a_table_name_line_and_column(text, sentence):
    with pytest.raises(ZsemError, match=sentence):
        read(text, ["a.png"])


def test_a_table_that_is_not_utf8_is_refused():
    with pytest.raises(ZsemError, match="UTF-8"):
        labels.read_table("path,größe\n".encode("latin-1"))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["train", "val", "test"]), max_size=60), st.integers(1, 70))
def test_spread_takes_the_number_asked_for_and_something_of_every_group(groups, number):
    chosen = labels.spread(groups, number)
    assert len(chosen) == min(number, len(groups)) and chosen == sorted(set(chosen))
    if number >= len(set(groups)):
        assert {groups[i] for i in chosen} == set(groups)


def test_spread_is_even_and_proportional():
    groups = ["train"] * 900 + ["val"] * 100
    chosen = labels.spread(groups, 100)
    assert sum(groups[i] == "val" for i in chosen) == 10
    assert set(np.diff(chosen[:90])) == {10}


GROUPED = "path,age,patient\n" + "".join(f"scans/{i:03d}.png,{i},P{i // 5}\n" for i in range(300))


def test_no_group_is_in_two_splits():
    paths = [f"scans/{i:03d}.png" for i in range(300)]
    table = labels.read_table(GROUPED.encode(), "patient")
    assert table.names == ["age"] and table.groups["scans/007.png"] == "P1"
    split = dict(zip(paths, labels.splits(paths, table.groups), strict=True))
    assert set(split.values()) == {"train", "val"}
    assert labels.divided_groups(split, table.groups) == []
    assert labels.divided_groups(dict(zip(paths, labels.splits(paths), strict=True)), table.groups) != []


def test_a_groups_split_does_not_depend_on_other_images():
    paths = [f"scans/{i:03d}.png" for i in range(300)]
    groups = labels.read_table(GROUPED.encode(), "patient").groups
    split = dict(zip(paths, labels.splits(paths, groups), strict=True))
    some = [path for i, path in enumerate(paths) if i % 5 == 0]
    assert labels.splits(some, groups) == [split[path] for path in some]
    renamed = [f"other/{i}.png" for i in range(300)]  # the same patients, other files
    again = labels.splits(renamed, {name: groups[path] for name, path in zip(renamed, paths, strict=True)})
    assert again == list(split.values())


def test_two_groups_are_enough_to_hold_one_out_and_one_is_not():
    paths = [f"{i}.png" for i in range(6)]
    for name in "abcdefgh":
        split = labels.splits(paths, {path: f"{name}{i % 2}" for i, path in enumerate(paths)})
        assert split[0::2] in (["train"] * 3, ["val"] * 3) and split[0] != split[1]
        assert len(set(labels.splits(paths, dict.fromkeys(paths, name)))) == 1


def test_images_without_a_group_are_split_by_themselves():
    table = labels.read_table(b"path,group\na.png,x\nb.png,\nc.png,x\n")
    assert table.names == [] and table.groups == {"a.png": "x", "c.png": "x"}
    assert table.columns(["a.png"], frozenset(["a.png", "b.png", "c.png"])) == ({}, [])


def test_folders_that_divide_a_group_can_be_named():
    paths = ["train/1.png", "test/2.png", "train/3.png"]
    split = dict(zip(paths, labels.splits(paths), strict=True))
    assert labels.divided_groups(split, {"train/1.png": "x", "test/2.png": "x", "train/3.png": "y"}) == ["x"]


def test_a_group_that_is_no_column_is_refused_with_those_there_are():
    with pytest.raises(ZsemError, match="no column 'slide' to group by: choose one of age, patient"):
        labels.read_table(GROUPED.encode(), "slide")


def test_a_column_of_texts_is_no_attribute_and_is_noted():
    table = labels.read_table(GROUPED.encode())
    assert table.names == ["age"] and table.texts == ["patient"] and table.groups == {}
    paths = [f"scans/{i:03d}.png" for i in range(300)]
    assert table.columns(paths, frozenset(paths))[1] == [
        "attributes.csv has texts in the column patient, which is no attribute"
    ]
