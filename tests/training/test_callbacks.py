"""Callbacks, TensorBoard, and the note about small sets."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from zsem import api
from zsem.api.training import small_set
from zsem.data.images import load_images
from zsem.training.callbacks import Callback, numbers
from zsem.values.errors import ZsemError


@pytest.fixture(scope="module")
def images(image_folder):
    return load_images(image_folder, size=16)


def test_callbacks_see_every_record_and_the_averaged_model(images, quick_preset, tmp_path):
    seen, weights = [], []

    def watch(record, model):
        seen.append(record)
        weights.append(model.unet.conv_out.weight.clone())
        assert not model.training

    def full(record, model):
        raise OSError(28, "No space left on device")

    assert isinstance(watch, Callback)
    said: list[str] = []
    model = api.train(
        images, tmp_path / "run", preset=quick_preset, iterations=20, callbacks=[full, watch], say=said.append
    )
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [json.loads(json.dumps(record)) for record in seen] == written
    assert [record["iteration"] for record in seen] == [10, 20, 20]
    assert {"loss", "learning_rate", "images", "seconds"} <= seen[0].keys()
    assert "z" in seen[-1]["validation"]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], model.unet.conv_out.weight)
    assert any("No space left" in line and "training goes on" in line for line in said)


def test_a_mistake_in_a_callback_is_not_hidden(images, quick_preset, tmp_path):
    def wrong(record, model):
        raise KeyError("typing error")

    with pytest.raises(KeyError, match="typing error"):
        api.train(images, tmp_path / "run", preset=quick_preset, iterations=20, callbacks=[wrong], say=lambda _: None)


def test_numbers_of_nested_records():
    record = {"iteration": 3, "validation": {"loss": 0.5, "levels": {"62": 1}, "z": {"right": (1.0,), "used": True}}}
    assert dict(numbers(record)) == {
        "iteration": 3.0, "validation/loss": 0.5, "validation/levels/62": 1.0, "validation/z/used": 1.0,
    }  # fmt: skip


def test_tensorboard_shows_the_records_once(images, quick_preset, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    preset = replace(quick_preset, training=replace(quick_preset.training, log_every=2))
    api.train(images, out, preset=preset, iterations=6, tensorboard=True, say=lambda _: None)
    api.train(images, out, iterations=10, resume=True, tensorboard=True, say=lambda _: None)
    shown = events.EventAccumulator(str(out / "tensorboard"))
    shown.Reload()
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = {record["iteration"]: record["loss"] for record in records if "loss" in record}
    found = {event.step: event.value for event in shown.Scalars("loss")}
    assert found == pytest.approx(losses, rel=1e-6)
    assert [event.step for event in shown.Scalars("validation/z/ratio")] == [6, 10]


def test_tensorboard_that_is_missing_is_one_sentence(images, quick_preset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ZsemError, match=r"pip install 'zsem\[track\]'"):
        api.train(images, tmp_path / "run", preset=quick_preset, iterations=1, tensorboard=True, say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_few_images_are_remarked_upon(images, quick_preset, tmp_path):
    said: list[str] = []
    api.train(images, tmp_path / "run", preset=quick_preset, iterations=1, say=said.append)
    assert any(line.startswith("note: 36 training images are few") for line in said)
    plenty = replace(images, splits=["train"] * 500, paths=["x"] * 500)
    assert small_set(plenty, "autoencoder") == []
    for kind, of_codes, unlabelled in (("autoencoder", True, True), ("vae", False, True), ("classifier", False, False)):
        (note,) = small_set(images, kind)
        assert (" z " in note, "unlabelled" in note) == (of_codes, unlabelled)
