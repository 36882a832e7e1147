import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data.decoding import load_image
from zsem.data.pixels import from_pil, from_uint8, grid, picture_suffix, save_pixels, save_png, to_pil, to_uint8
from zsem.values.errors import ZsemError


def test_every_uint8_value_survives_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    x = from_uint8(pixels)
    assert x.dtype == torch.float32 and x[0] == -1 and x[-1] == 1
    assert torch.equal(to_uint8(x), pixels)
    assert torch.equal(to_uint8(x.double()), pixels)


def test_values_are_rounded_to_the_nearest_and_clipped():
    x = torch.tensor([-3.0, -1.0, 3.9 / 127.5 - 1, 4.1 / 127.5 - 1, 1.0, 7.0])
    assert to_uint8(x).tolist() == [0, 0, 4, 4, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_round_trip(channels):
    pixels = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    image = to_pil(pixels)
    assert image.size == (7, 5) and image.mode == {1: "L", 3: "RGB"}[channels]
    assert torch.equal(from_pil(image), pixels)


def test_pillow_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        to_pil(torch.zeros(2, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="RGBA"):
        from_pil(Image.new("RGBA", (4, 4)))


def test_grid_shows_every_pixel_of_every_picture():
    colour = torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8)
    grey = torch.randint(0, 255, (2, 1, 8, 8), dtype=torch.uint8)
    sheet = np.asarray(grid(colour, grey, scale=3))
    assert sheet.shape == (2 + 2 * (24 + 2), 2 + 3 * (24 + 2), 3)
    for row, pictures in enumerate((colour, grey)):
        for column, picture in enumerate(pictures):
            top, left = 2 + 26 * row, 2 + 26 * column
            shown = sheet[top : top + 24 : 3, left : left + 24 : 3]
            assert np.array_equal(shown, picture.expand(3, 8, 8).permute(1, 2, 0).numpy())
    assert (sheet[30:, -25:-2] == 255).all()  # the shorter row ends in white


def test_captions_are_written_left_of_the_pictures():
    rows = [torch.zeros(1, 3, 8, 8, dtype=torch.uint8)] * 2
    plain, labelled = (np.asarray(grid(*rows, captions=captions)) for captions in (None, ["original", "exact"]))
    margin = labelled.shape[1] - plain.shape[1]
    assert margin > 20 and (labelled[:, :margin] < 128).any()
    assert labelled.shape[0] > plain.shape[0]  # a row is never lower than its caption


def test_grid_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="one size"):
        grid(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="1 rows need 1 captions"):
        grid(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), captions=["one"] * 2)


def test_save_png_replaces_a_file_and_makes_folders(tmp_path):
    path = tmp_path / "new" / "picture.png"
    for value in (0, 200):
        save_png(torch.full((3, 4, 4), value, dtype=torch.uint8), path)
        assert np.asarray(Image.open(path)).mean() == value
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_save_png_that_fails_leaves_the_old_file_and_says_one_sentence(tmp_path, monkeypatch):
    path = save_png(torch.full((1, 4, 4), 7, dtype=torch.uint8), tmp_path / "a.png")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ZsemError, match=r"could not write .*a\.png \(No space left on device\)"):
        save_png(torch.zeros(1, 4, 4, dtype=torch.uint8), path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"] and np.asarray(Image.open(path)).max() == 7


@pytest.mark.parametrize(
    ("depth", "channels", "suffix"),
    [
        ("uint8", 1, ".png"),
        ("uint8", 3, ".png"),
        ("uint8", 2, ".npy"),
        ("uint8", 7, ".npy"),
        ("uint16", 1, ".png"),
        ("uint16", 3, ".tiff"),
        ("uint16", 4, ".npy"),
        ("int16", 1, ".tiff"),
        ("int16", 3, ".tiff"),
        ("float32", 1, ".tiff"),
        ("float32", 3, ".tiff"),
        ("float32", 5, ".npy"),
    ],
)
def test_every_depth_has_a_file_that_gives_it_back(tmp_path, depth, channels, suffix):
    values = torch.randn(channels, 9, 11) * 40 if depth == "float32" else torch.randint(0, 256, (channels, 9, 11)) * 100
    pixels = values.to(getattr(torch, depth))
    path = save_pixels(pixels, tmp_path / "new" / "scan.2")
    assert path.name == f"scan.2{suffix}" and [file.name for file in path.parent.iterdir()] == [path.name]
    assert torch.equal(load_image(path, None, channels, depth=None), pixels)


def test_without_tifffile_deep_colours_are_arrays(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert picture_suffix("uint16", 3) == ".npy" and picture_suffix("float32", 1) == ".tiff"
    pixels = torch.randn(1, 9, 11)
    assert torch.equal(load_image(save_pixels(pixels, tmp_path / "a"), None, 1, depth=None), pixels)


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZsemError, match="file could not be made"):
        save_pixels(torch.zeros(1, 2, 2, dtype=torch.uint16), tmp_path / "file" / "a")
