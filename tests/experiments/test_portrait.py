"""A portrait edited at its full size, end to end on a small model."""

import json
import sys

import pytest
import torch

from experiments import portrait
from zsem.data.pixels import save_pixels


@pytest.fixture
def portraits(tmp_path):
    """Class folders of smooth pictures, brighter in one of them."""
    for name, level in (("female", 90), ("male", 150)):
        for number in range(20):
            noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(number))
            pixels = (level + 30 * torch.nn.functional.interpolate(noise, (32, 32), mode="bicubic")[0]).clamp(0, 255)
            save_pixels(pixels.to(torch.uint8), tmp_path / "portraits" / name / f"{number}.png")
    return tmp_path / "portraits"


def test_a_portrait_changes_within_the_face_alone(model, portraits, tmp_path, monkeypatch, capsys):
    model.save(tmp_path / "init")
    monkeypatch.setattr(portrait, "SIDE", 64)
    monkeypatch.setattr(portrait, "PERSON", held_out(portraits))
    options = ["--minutes", "0.02", "--init", str(tmp_path / "init"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["portrait", str(portraits), *options])
    portrait.main()
    found = json.loads((tmp_path / "out" / "portrait.json").read_text())
    for name in ("within the face", "component, within the face"):
        assert found[name]["outside"] == 0
        assert found[name]["inside"] > 0.5
    assert found["no mask"]["outside"] > 0.5
    assert found["strength 0"]["largest"] == 0
    assert (tmp_path / "out" / "portrait.png").exists()
    assert "| strength 0 | 0.0% | 0.0% | 0 |" in capsys.readouterr().out


def held_out(portraits):
    """A man of the held-out images."""
    from zsem.data.images import load_images

    images = load_images(portraits, size=16)
    return next(p for p, s in zip(images.paths, images.splits, strict=True) if s == "val" and p.startswith("male"))
