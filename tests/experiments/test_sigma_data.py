"""What to predict: the command with networks of the least size, and its measure of grain."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from experiments.sigma_data import grain, main, recipe_of

from zsem.data.images import load_images
from zsem.data.pixels import from_uint8
from zsem.nets.features import load_efficientnet_lite0
from zsem.training.presets import find_preset


def test_grain_is_the_deviation_of_noise_on_flat_images(two_hundred_faces):
    flat = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 64, 64)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    assert grain(flat) == 0
    assert grain(flat + 0.05 * noise) == pytest.approx(0.05, rel=0.02)
    faces = from_uint8(load_images(two_hundred_faces, size=16).pixels)
    assert grain(faces) < 0.1 < grain(faces + 0.2 * torch.randn_like(faces))


def test_models_differ_in_sigma_data_alone():
    one, other = recipe_of(1.0, 64), recipe_of(0.1, 64)
    assert one.preset.model.sigma_data == 1 and other.preset == find_preset("nano")
    assert replace(one.preset, model=other.preset.model) == other.preset


def test_the_command_trains_judges_and_goes_on(two_hundred_faces, small_nano, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = functools.partial(load_efficientnet_lite0, size=32)
    monkeypatch.setattr("experiments.sigma_data.find_preset", lambda name: small_nano)
    monkeypatch.setattr("experiments.sigma_data.load_efficientnet_lite0", network)
    monkeypatch.setattr("experiments.samples.RESAMPLES", 5)
    for room in ("runs", "sigma_data"):
        monkeypatch.setattr(f"experiments.{room}.images_of", lambda data, cifar10: str(two_hundred_faces))
    monkeypatch.setattr("sys.argv", ["x", "--values", "1", "0.1", "--images", "128", "--number", "12", "--out", "out"])
    main()
    figures = json.loads((tmp_path / "out" / "sigma_data.json").read_text())
    assert set(figures) == {"quick", "nano-s1", "nano-s0.1"}
    assert figures["nano-s1"]["n"] == 12 and set(figures["nano-s1"]["x0"]) == {"5", "50", "200", "500"}
    assert figures["nano-s1"]["x0"] != figures["nano-s0.1"]["x0"]
    text = (tmp_path / "out" / "sigma_data.md").read_text()
    assert f"| 0.1 | {figures['nano-s0.1']['frechet']:.1f} |" in text and (tmp_path / "out" / "samples.png").exists()
    monkeypatch.setattr("experiments.sigma_data.judged", None)  # nothing is trained or judged a second time
    capsys.readouterr()
    main()
    assert "iteration" not in capsys.readouterr().out
