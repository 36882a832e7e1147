"""Small parts of the command line that people do not call by themselves."""

import json
import math

import pytest
import torch
from PIL import Image

from zsem.cli.command import Report
from zsem.cli.images import chunks, file_stems, save_images, save_picture
from zsem.cli.reconstruct import table_row
from zsem.cli.train import chosen_preset
from zsem.data.intensity import EIGHT_BITS
from zsem.data.pixels import from_pil
from zsem.training.presets import find_preset


def test_names_of_pictures_stay_inside_the_folder_and_apart():
    paths = ["a/1.jpg", "a/1.png", "A/1.PNG", "../../etc/passwd", "/root/x.png", "C:\\pictures\\y.bmp", "..", "b.c/d"]
    names = file_stems(paths, len(paths))
    assert names[:2] == ["a/1", "a/1-2"]
    assert names[3:] == ["etc/passwd", "root/x", "pictures/y", "image", "b.c/d"]
    assert len({name.casefold() for name in names}) == len(paths)
    assert file_stems([], 2) == ["000000", "000001"]


def test_a_name_that_another_image_takes_by_chance():
    names = file_stems(["a.jpg", "a.png", "a-2.png"], 3)
    assert len(set(names)) == 3


def test_saved_images_are_the_rounded_ones(tmp_path):
    images = torch.linspace(-1.2, 1.2, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    save_images(tmp_path, ["deep/a", "b"], images, EIGHT_BITS)
    expected = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    for name, image in zip(["deep/a.png", "b.png"], expected, strict=True):
        with Image.open(tmp_path / name) as written:
            assert torch.equal(from_pil(written), image)


def test_small_images_are_enlarged_in_pictures(tmp_path):
    save_picture(tmp_path / "sheet.png", [torch.zeros(2, 3, 16, 16, dtype=torch.uint8)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 128 <= sheet.width < 150


def test_chunks_cover_everything_once():
    assert [(part.start, part.stop) for part in chunks(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert list(chunks(0, 4)) == []


def test_json_has_null_for_what_it_cannot_say(capsys):
    Report(figures={"psnr": math.inf, "rows": [{"mse": math.nan}, (1.5, True)]}).show(as_json=True)
    assert json.loads(capsys.readouterr().out) == {"psnr": None, "rows": [{"mse": None}, [1.5, True]]}


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (1 - 1e-9, "99.99 %"), (0.5, "50 %"), (0.28999, "28.99 %"), (0.0, "0 %")]
)
def test_the_table_says_100_only_where_all_are_identical(share, text):
    result = {"codec": "exact", "nfe_encode": 20, "nfe_decode": 19, "mse": 0.0, "psnr": math.inf, "ssim": 1.0}
    row = table_row({**result, "identical": share, "seconds": 1.0, "n": 2})
    assert row["identical"] == text
    assert row["PSNR dB"] == "inf"


def test_the_preset_is_read_ahead():
    assert chosen_preset(["data", "--out", "x"]) == find_preset("tiny")
    assert chosen_preset(["data", "--preset", "nano"]) == find_preset("nano")
    assert chosen_preset(["--preset=paper64", "data"]) == find_preset("paper64")
