"""Probes on faces of another style, end to end on a small model."""

import json
import sys

from experiments import transfer
from zsem.data import builtin


def test_probes_are_judged_on_faces_of_another_style(model, tmp_path, monkeypatch, capsys):
    faces = builtin.avatars(tmp_path / "faces", number=300, size=16, workers=1)
    model.save(tmp_path / "run")
    monkeypatch.setattr(transfer, "DATA", tmp_path / "data")
    arguments = [str(tmp_path / "run"), "--data", str(faces), "--styles", "toon-head", "--number", "60"]
    monkeypatch.setattr(sys, "argv", ["transfer", *arguments, "--labels", "200", "--out", str(tmp_path / "out")])
    transfer.main()
    report = json.loads((tmp_path / "out" / "transfer.json").read_text())
    own, other = report["styles"]["avataaars"], report["styles"]["toon-head"]
    assert set(other) == {"z", "pca", "pixels"}
    assert set(other["z"]) == {"beard", "smile", "long_hair", "eyes_closed"}  # what both styles have
    assert own["pixels"]["long_hair"]["score"] > 0.9  # of their own style even pixels tell long hair
    assert own["z"]["hat"]["n"] == 30
    assert other["z"]["smile"]["n"] == 60
    assert "| toon-head | 60 | pca |" in capsys.readouterr().out
    assert (tmp_path / "out" / "transfer.png").exists()


def test_faces_of_another_style_are_as_large_and_as_jittered(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "DATA", tmp_path)
    images = transfer.faces("open-peeps", 10, 16)
    assert images.pixels.shape == (10, 3, 16, 16)
    settings = json.loads((tmp_path / "open-peeps-10-16" / "avatars.json").read_text())["settings"]
    assert settings["jitter"] == transfer.AVATARS["jitter"]
