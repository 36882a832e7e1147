"""`zsem edit` and `zsem interpolate`, run as people run them."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from zsem.cli.edits import Edit
from zsem.data.images import load_images
from zsem.semantics import edits
from zsem.semantics.attributes import learn
from zsem.values.direction import Direction, save_directions


@pytest.fixture(scope="module")
def run(small_model, labelled_discs, tmp_path_factory):
    """A saved model that has learned two attributes."""
    folder = tmp_path_factory.mktemp("run") / "model"
    small_model.save(folder)
    some = labelled_discs.limit(200)
    z = small_model.encode(some, noise=False).z
    blue = (some.pixels[:, 2].float().mean(dim=(1, 2)) > 127).float().numpy()
    learn(z, {"red": some.attributes["red"], "blue": blue}, small_model).save(folder / "semantics")
    return folder


@pytest.fixture(scope="module")
def few(image_folder, tmp_path_factory):
    """Three small images."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("00", "01", "02"):
        (folder / f"{name}.png").write_bytes((image_folder / f"{name}.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photo of 1,024 pixels."""
    path = tmp_path_factory.mktemp("photo") / "large.png"
    rows, columns = np.mgrid[:1024, :1300]
    picture = np.stack([rows // 4, columns // 6, (rows * columns) // 5300], axis=2).astype(np.uint8)
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture(scope="module")
def direction(small_model, tmp_path_factory):
    vector = torch.linspace(-1, 1, 8)
    made = Direction(
        space="z", vector=vector, unit="logit", name="tilt", model=small_model.stamp, slope=2.0, intercept=0.5
    )
    other = Direction(space="z", vector=-vector, unit="logit", name="tlit", model=small_model.stamp)
    folder = tmp_path_factory.mktemp("directions")
    save_directions(folder / "one.safetensors", [made])
    save_directions(folder / "two.safetensors", [made, other])
    save_directions(folder / "foreign.safetensors", [Direction(**{**vars(made), "model": "abc"})])
    save_directions(folder / "short.safetensors", [Direction(**{**vars(made), "vector": vector[:5]})])
    return folder


def array(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_attributes_are_brought_to_probabilities(zsem, run, few, tmp_path):
    code, out, _ = zsem("edit", run, few, "--set", "red=0.9", "--keep", "blue", "--out", tmp_path, "--json")
    assert code == 0
    figures = json.loads(out)
    assert figures["n"] == 3
    assert figures["attributes"]["red"]["requested"] == 0.9
    assert figures["attributes"]["blue"]["requested"] is None
    assert [entry["path"] for entry in figures["images"]] == ["00.png", "01.png", "02.png"]
    for side in ("before", "achieved"):
        values = [entry[side]["red"] for entry in figures["images"]]
        assert np.mean(values) == pytest.approx(figures["attributes"]["red"][side])
        assert all(0 <= value <= 1 for value in values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00.png", "01.png", "02.png", "edit.png"]
    assert not np.array_equal(array(tmp_path / "00.png"), array(few / "00.png"))
    assert array(tmp_path / "edit.png").shape[0] > 3 * 64  # three enlarged rows


def test_the_achieved_probability_is_that_of_the_written_images(zsem, run, few, small_model, tmp_path):
    from zsem.semantics.attributes import Semantics

    _, out, _ = zsem("edit", run, few, "--set", "red=0.3", "--out", tmp_path, "--json")
    written = small_model.encode(load_images(tmp_path, size=16, limit=4).pixels[:3], noise=False)
    figures = json.loads(out)
    scores = Semantics.load(run / "semantics", small_model).score(written.z, "red")
    assert [entry["achieved"]["red"] for entry in figures["images"]] == pytest.approx(scores.tolist())


def test_what_is_beyond_a_request_stays_to_the_bit_unless_it_is_meant_exactly(zsem, run, few, small_model, tmp_path):
    from zsem.semantics.attributes import Semantics

    z = small_model.encode(load_images(few, size=16), noise=False).z
    score = float(Semantics.load(run / "semantics", small_model).score(z, "red")[0])
    fainter = f"red={(score + 0.5) / 2}"
    for more, same in (([], True), (["--exact"], False)):
        code, _, err = zsem(
            "edit", run, few / "00.png", "--set", fainter, "--scale", 50, *more, "--out", tmp_path / f"{same}"
        )
        assert code == 0, err
        assert np.array_equal(array(tmp_path / f"{same}" / "00.png"), array(few / "00.png")) is same


def test_models_that_are_found_by_name_have_their_attributes(zsem, run, few, tmp_path, monkeypatch):
    monkeypatch.setattr("zsem.models.base.ASSETS", run.parent)
    monkeypatch.chdir(tmp_path)
    code, _, err = zsem("edit", run.name, few / "00.png", "--set", "red=0.5", "--out", "out")
    assert code == 0, err


def test_the_table_says_requested_and_achieved(zsem, run, few, tmp_path):
    _, out, _ = zsem("edit", run, few, "--set", "red=0.9,blue=0.2", "--out", tmp_path, "--limit", "2")
    assert "requested" in out and "achieved" in out
    assert "0.9" in out and "2 edited images in" in out


def test_a_direction_from_a_file_and_amount_zero(zsem, run, few, direction, tmp_path):
    file = direction / "one.safetensors"
    code, out, _ = zsem(
        "edit", run, few, "--direction", file, "--amount", 0, "--mask", "auto", "--out", tmp_path, "--json"
    )
    assert code == 0
    for name in ("00.png", "01.png", "02.png"):
        assert np.array_equal(array(tmp_path / name), array(few / name))
    figures = json.loads(out)["attributes"]["tilt"]
    assert figures["before"] == pytest.approx(figures["achieved"], abs=1e-4)
    zsem("edit", run, few, "--direction", direction / "two.safetensors", "--name", "tlit", "--out", tmp_path / "b")
    assert not np.array_equal(array(tmp_path / "b" / "00.png"), array(few / "00.png"))


@pytest.mark.parametrize("full_size", [False, True])
def test_outside_a_mask_file_the_images_are_what_they_were(zsem, run, photo, direction, tmp_path, full_size):
    mask = np.zeros((1024, 1300), np.uint8)
    mask[200:500, 400:900] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = ["--direction", direction / "one.safetensors", "--amount", "3", "--mask", tmp_path / "mask.png"]
    code, _, err = zsem(
        "edit", run, photo, *options, *(["--full-size"] if full_size else []), "--out", tmp_path / "out"
    )
    assert code == 0, err
    edited = array(tmp_path / "out" / "large.png")
    if full_size:
        assert edited.shape == (1024, 1300, 3)
        same = (edited == array(photo)).all(axis=2)
        assert same[mask == 0].all()
        assert same[mask > 0].mean() < 0.5
    else:
        assert edited.shape == (16, 16, 3)
        seen = load_images(photo, size=16).pixels[0].permute(1, 2, 0).numpy()
        assert np.array_equal(edited[9:], seen[9:]) and not np.array_equal(edited[3:8], seen[3:8])


def test_an_image_that_is_called_as_the_picture_is(zsem, run, few, direction, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "edit.png").write_bytes((few / "00.png").read_bytes())
    options = ["--direction", direction / "one.safetensors", "--amount", "0"]
    zsem("edit", run, tmp_path / "in", *options, "--out", tmp_path / "out")
    assert np.array_equal(array(tmp_path / "out" / "edit-2.png"), array(few / "00.png"))
    assert array(tmp_path / "out" / "edit.png").shape != (16, 16, 3)


def test_amount_zero_at_full_size_is_the_photo(zsem, run, photo, direction, tmp_path):
    options = ["--direction", direction / "one.safetensors", "--amount", "0", "--full-size"]
    code, _, _ = zsem("edit", run, photo, *options, "--out", tmp_path)
    assert code == 0
    assert np.array_equal(array(tmp_path / "large.png"), array(photo))


def test_results_do_not_depend_on_the_chunks(zsem, run, few, direction, tmp_path, monkeypatch):
    options = ["--direction", direction / "one.safetensors", "--keep-noise", "0.5", "--full-size"]
    zsem("edit", run, few, *options, "--out", tmp_path / "whole")
    monkeypatch.setattr("zsem.cli.edits.CHUNK", 2)
    zsem("edit", run, few, *options, "--out", tmp_path / "parts")
    for name in ("00.png", "01.png", "02.png"):
        difference = array(tmp_path / "whole" / name).astype(int) - array(tmp_path / "parts" / name)
        assert np.abs(difference).max() <= 1


def test_the_command_has_the_defaults_of_the_function():
    defaults = {field.name: field.default for field in fields(Edit)}
    assert (defaults["scale"], defaults["rescale"], defaults["interval"]) == (edits.SCALE, edits.RESCALE, None)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "with either --set smile=0.9 or --direction FILE"),
        (["--set", "red=1", "--direction", "x"], "with either --set smile=0.9 or --direction FILE"),
        (["--set", "red"], "--set red is not understood at 'red': write smile=0.9,hat=0"),
        (["--set", "red=much"], "not understood at 'red=much'"),
        (["--set", "red=0.1,blue=1,red=0.9"], "asks for red twice: leave out one of the two"),
        (["--direction", "DIR/one.safetensors", "--exact"], "go with --set"),
        (["--set", "red=0.5", "--interval", "800", "100"], "800 comes after 100"),
        (["--set", "red=nan"], "asks for what is no number"),
        (["--set", "rde=0.5"], "did you mean red?"),
        (["--set", "red=1.5"], "red is asked for with 1.5, which is no probability"),
        (["--set", "red=0.5", "--semantics", "nowhere"], "learn them with `zsem attributes"),
        (["--set", "red=0.5", "--keep-noise", "2"], "--keep-noise must lie in 0..1, not 2"),
        (["--set", "red=0.5", "--rescale", "-1"], "--rescale must lie in 0..1, not -1"),
        (["--set", "red=0.5", "--mask", "nowhere.png"], "nowhere.png cannot be read"),
        (["--direction", "DIR/one.safetensors", "--keep", "red"], "go with --set"),
        (["--direction", "DIR/two.safetensors"], "choose one of tilt, tlit with --name"),
        (["--direction", "DIR/one.safetensors", "--name", "smile"], "no direction 'smile': choose one of tilt"),
        (["--direction", "DIR/foreign.safetensors"], "belongs to model abc"),
        (["--direction", "DIR/short.safetensors"], "no direction of z of length 8"),
        (["--direction", "DIR/none.safetensors"], "neither a file of directions nor a folder with a learned shift"),
    ],
)
def test_mistakes_in_edits(zsem, run, few, direction, tmp_path, options, sentence):
    options = [option.replace("DIR", str(direction)) for option in options]
    code, out, err = zsem("edit", run, few, *options, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_images_themselves_are_never_overwritten(zsem, run, few):
    code, _, err = zsem("edit", run, few, "--set", "red=0.5", "--out", few)
    assert code == 2
    assert "holds the images: choose another folder" in err


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
def test_morphs(zsem, run, few, tmp_path, suffix):
    out_file = tmp_path / f"morph.{suffix}"
    code, out, _ = zsem("interpolate", run, few / "00.png", few / "01.png", "--frames", 4, "--out", out_file, "--json")
    assert code == 0
    assert json.loads(out) == {"frames": 4, "ends_identical": 1.0, "out": str(out_file)}
    with Image.open(out_file) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    ends = [array(few / name).repeat(4, axis=0).repeat(4, axis=1) for name in ("00.png", "01.png")]
    if suffix == "png":
        left, right = frames[0][2:66, 2:66], frames[0][2:66, -66:-2]
        assert np.array_equal(left, ends[0]) and np.array_equal(right, ends[1])
    else:
        assert len(frames) == 4
        assert np.abs(frames[0].astype(int) - ends[0]).mean() < (8 if suffix == "gif" else 1e-9)
        assert np.abs(frames[-1].astype(int) - ends[1]).mean() < (8 if suffix == "gif" else 1e-9)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["B", "--out", "x.bmp"], "end it in .png, .gif, .webp, .mp4"),
        (["B", "--out", "x.png", "--frames", "1"], "--frames must be at least 2, not 1"),
        (["B", "--out", "x.gif", "--seconds", "0"], "--seconds must be above 0, not 0"),
        (["FEW", "--out", "x.gif"], "holds several images: give one file"),
    ],
)
def test_mistakes_in_morphs(zsem, run, few, tmp_path, options, sentence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"B": few / "01.png", "FEW": few}
    code, out, err = zsem("interpolate", run, few / "00.png", *(names.get(option, option) for option in options))
    assert (code, out) == (2, "")
    assert sentence in err
    assert not list(tmp_path.iterdir())


def test_mp4_without_ffmpeg_is_one_sentence(zsem, run, few, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = zsem("interpolate", run, few / "00.png", few / "01.png", "--out", tmp_path / "x.mp4")
    assert code == 2
    assert "ffmpeg, which is not on the PATH: install it, or choose .gif" in err
