"""Presets as files: what is printed is read, what is wrong is told in one sentence."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsem import api
from zsem.training.presets import PRESETS, find_preset, preset_json
from zsem.values.errors import ZsemError


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, named in PRESETS.items() for name in named])
def test_a_printed_preset_is_read_again(tmp_path, kind, name):
    path, preset = tmp_path / "mine.json", PRESETS[kind][name]
    path.write_text(preset_json(preset))
    assert find_preset(path) == preset == find_preset(name, kind) == find_preset(path, kind)
    assert preset.kind == kind


def test_a_preset_is_for_one_kind_of_model(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"kind": "painter", "base": "tiny"}')
    with pytest.raises(ZsemError, match="no kind of model 'painter'; choose one of autoencoder"):
        find_preset(path)
    with pytest.raises(ZsemError, match="is a preset for --model painter, not autoencoder"):
        find_preset(path, "autoencoder")
    with pytest.raises(ZsemError, match="no kind of model 'painter' to train; choose one of autoencoder"):
        find_preset("tiny", "painter")


@given(st.integers(1, 512), st.floats(1e-6, 1e-2), st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_a_part_changes_that_part_alone(tmp_path_factory, batch, rate, mult):
    path = tmp_path_factory.mktemp("preset") / "mine.json"
    part = {
        "base": "nano",
        "training": {"batch_size": batch, "learning_rate": rate},
        "model": {"unet": {"channel_mult": mult}},
    }
    path.write_text(json.dumps(part))
    nano = find_preset("nano")
    assert find_preset(path) == replace(
        nano,
        training=replace(nano.training, batch_size=batch, learning_rate=rate),
        model=replace(nano.model, unet=replace(nano.model.unet, channel_mult=tuple(mult))),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"base": "tiny", "training": {"batchsize": 3}}', "training.batchsize is no setting .* training.batch_size?"),
        ('{"base": "tiny", "trainig": {}}', "trainig is no setting of a preset; did you mean training?"),
        ('{"base": "tiny", "training": {"batch_size": "many"}}', "training.batch_size: .*integer, not 'many'"),
        ('{"base": "tiny", "training": 3}', "training: .*, not 3"),
        ('{"base": "tiny", "model": {"prediction": "w"}}', "model.prediction: .*'v', 'eps' or 'x0', not 'w'"),
        ('{"base": "tiny", "model": {"unet": {"patch": 0}}}', "json: patch of a network must be at least 1, not 0"),
        ('{"base": "tony"}', "no preset 'tony' to begin with; choose one of nano, tiny"),
        ('{"base": ["tiny"]}', "no preset .* to begin with"),
        ('{"training": {"batch_size": 3}}', 'leaves out model; add "base": "tiny"'),
        ("[1]", "must be a JSON object"),
        ("{", "is not JSON"),
        ('{"base": "tiny", "training": {"ema_width": 0.5}}', None),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "mine.json"
    path.write_text(text)
    if sentence is None:  # a value of the right type is judged where it is used
        assert find_preset(path).training.ema_width == 0.5
        return
    with pytest.raises(ZsemError, match=sentence) as told:
        find_preset(path)
    assert str(told.value).count("\n") == 0
    assert str(path) in str(told.value)


def test_missing_presets_and_files():
    with pytest.raises(
        ZsemError, match=r"no preset 'nono' for --model autoencoder; choose one of nano, .*, or give a \.json file"
    ):
        find_preset("nono")
    with pytest.raises(ZsemError, match="'adm-64' for --model vae; --model diffusion or classifier has one of this"):
        find_preset("adm-64", "vae")
    with pytest.raises(ZsemError, match=r"nowhere\.json cannot be read: No such file"):
        find_preset("nowhere.json")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ema_width": 0.5}, "width must lie between 0 and 0.28, not 0.5"),
        ({"ema_others": (0.1, 0.0)}, "width must lie between 0 and 0.28, not 0"),
        ({"accumulate": 0}, "training.accumulate must be at least 1, not 0"),
        ({"validation_images": 1}, "training.validation_images must be at least 2, not 1"),
        ({"learning_rate": -1.0}, "training.learning_rate and clip must be above 0"),
        ({"clip": 0.0}, "training.learning_rate and clip must be above 0"),
        ({"weight_decay": -0.1}, "training.weight_decay must be at least 0, not -0.1"),
        ({"betas": (0.9, 1.0)}, "betas from 0 to below 1"),
        ({"seed": -1}, "training.seed must be at least 0, not -1"),
    ],
)
def test_settings_that_no_training_can_have(image_folder, quick_preset, tmp_path, settings, sentence):
    preset = replace(quick_preset, training=replace(quick_preset.training, **settings))
    with pytest.raises(ZsemError, match=sentence):
        api.train(image_folder, tmp_path / "run", preset=preset, iterations=1, say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_training_takes_a_file(image_folder, quick_preset, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(preset_json(quick_preset))
    model = api.train(image_folder, tmp_path / "run", preset=path, iterations=1, say=lambda _: None)
    assert model.config == quick_preset.model
