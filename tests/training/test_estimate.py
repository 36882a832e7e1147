"""What `--estimate` promises against what a training then takes."""

import json
from dataclasses import replace

import pytest

from zsem import api
from zsem.cli import main
from zsem.cli.train import estimate_report
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder


def test_sizes_are_those_of_a_training_and_nothing_is_left(image_folder, quick_preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = load_images(image_folder, size=16)
    before = images.pixels.clone()
    found = api.estimate(images, preset=quick_preset)
    assert not list(tmp_path.iterdir())
    assert images.pixels.equal(before)
    model = DiffusionAutoencoder(quick_preset.model)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.images_per_second > 0
    assert found.peak_memory > 50e6  # torch alone
    api.train(images, tmp_path / "run", preset=quick_preset, iterations=100, say=lambda _: None)
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    written = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert found.checkpoint_size == pytest.approx(written, rel=0.1)  # small networks have relatively large headers
    snapshots = [path.stat().st_size for path in (tmp_path / "run" / "averages").iterdir()]
    model_size = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert found.run_size == pytest.approx(2 * written + model_size + 6 * max(snapshots), rel=0.1)


def test_the_report_tells_of_the_length_asked_for_and_the_recommended_one(image_folder, quick_preset):
    measured = api.estimate(load_images(image_folder, size=16), preset=quick_preset)
    measured = replace(measured, images_per_second=64.0, batch_size=32)
    in_minutes = estimate_report(measured, 10.0, None, 640_000).figures
    assert in_minutes["whole"] == {"seconds": 600.0, "iterations": 1200, "images": 38_400}
    assert in_minutes["recommended"] == {"seconds": 10_000.0, "iterations": 20_000, "images": 640_000}
    in_iterations = estimate_report(measured, None, 100, 640_000).figures
    assert in_iterations["whole"] == {"seconds": 50.0, "iterations": 100, "images": 3200}


def test_the_command_needs_no_folder(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--preset", "nano", "--size", "16", "--model.unet.channels", "8", "--model.encoder.channels", "8"]
    assert main(["train", str(image_folder), "--estimate", "--minutes", "1", "--json", *small]) == 0
    assert json.loads(capsys.readouterr().out)["whole"]["seconds"] == 60
    assert not list(tmp_path.iterdir())
    assert main(["train", str(image_folder), "--minutes", "1", *small]) == 2
    assert "--out RUN" in capsys.readouterr().err
