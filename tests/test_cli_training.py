"""Commands around a training: presets, the health of z in info, averages of other lengths."""

import json

import pytest

from zsem import api
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.training.presets import PRESETS, find_preset


@pytest.fixture(scope="module")
def run(image_folder, quick_preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    api.train(image_folder, folder, preset=quick_preset, iterations=20, say=lambda _: None)
    return folder


def test_presets_are_listed_and_printed(zsem, tmp_path):
    code, out, _ = zsem("presets")
    assert code == 0
    assert all(kind in out and name in out for kind, named in PRESETS.items() for name in named)
    code, out, _ = zsem("presets", "tiny")
    assert code == 0
    (tmp_path / "mine.json").write_text(out)
    assert find_preset(tmp_path / "mine.json") == find_preset("tiny")
    assert json.loads(zsem("presets", "tiny", "--json")[1]) == json.loads(out)
    assert zsem("presets", "giant")[0] == 2


def test_a_preset_file_sets_the_defaults_of_all_flags(zsem, image_folder, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text('{"base": "nano", "training": {"learning_rate": 0.0123}}')
    _, out, _ = zsem("train", "--preset", mine, "--help")
    assert "0.0123" in out[out.index("--training.learning-rate") :].split("--training.betas")[0]
    mine.write_text('{"base": "nano", "training": {"learningrate": 0.0123}}')
    code, out, err = zsem("train", image_folder, "--preset", mine, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "training.learningrate is no setting of a preset; did you mean training.learning_rate?" in err


def test_info_says_whether_z_is_used(zsem, run):
    code, out, _ = zsem("info", run)
    assert code == 0
    assert "z is hardly used" in out or "z is used" in out
    z = json.loads(zsem("info", run, "--json")[1])["history"]["validation"]["z"]
    assert z["used"] == ("z is used" in out)
    assert len(z["right"]) == len(z["other"]) == len(z["without"]) == len(z["timesteps"]) == 3


def test_ema_makes_a_model_of_another_length(zsem, run, tmp_path):
    code, out, _ = zsem("ema", run, "--sigma-rel", "0.2", "--json")
    assert code == 0
    assert json.loads(out)["sigma_rel"] == 0.2
    assert DiffusionAutoencoder.from_pretrained(run / "ema" / "0.2").history["ema"]["sigma_rel"] == 0.2
    code, out, _ = zsem("ema", run, "--out", tmp_path / "best")
    assert code == 0
    assert "validation loss" in out
    assert (tmp_path / "best" / "config.json").exists()
    code, _, err = zsem("ema", run, "--sigma-rel", "0.5")
    assert code == 2
    assert "between 0 and 0.28" in err
