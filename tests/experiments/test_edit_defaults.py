"""The grid of edits with an untrained model on small faces, from the command to the figures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from experiments.edit_defaults import main, settings

from zsem.data import builtin
from zsem.data.images import load_images

EDITED = ["glasses", "smile"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return builtin.avatars(tmp_path_factory.mktemp("faces") / "set", number=200, size=16, workers=1)


def test_the_grid_has_every_combination():
    grid = settings([0.0, 0.5], [1, 2], [0.0], [0.0, 100.0], ["none", "auto"])
    assert len({str(setting) for setting in grid}) == 16
    assert str(grid[-1]) == "beyond 0.5, scale 2, rescale 0, t >= 100, masked"
    assert grid[0].interval is None


@pytest.fixture(scope="module")
def run(model, faces, tmp_path_factory) -> Path:
    """A folder of the model."""
    pixels = load_images(faces, size=16).pixels
    model.measure_codes(pixels, pixels[:2])
    folder = tmp_path_factory.mktemp("run")
    model.save(folder)
    return folder


@pytest.mark.parametrize(("direction", "shares"), [("mean", [0]), ("edit", [0, 1])])
def test_figures_of_every_setting(run, faces, tmp_path, monkeypatch, capsys, direction, shares):
    options = ["--number", "2", "--edited", *EDITED, "--direction", direction, "--beyond", "0", "1"]
    options += ["--scales", "0", "2", "--rescales", "0", "--since", "0"]
    files = ["--json", str(tmp_path / "figures.json"), "--sheet", str(tmp_path / "sheet.png")]
    monkeypatch.setattr(sys, "argv", ["edit_defaults", str(run), str(faces), *options, *files])
    main()
    report = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["setting"]: row for row in report["rows"]}
    assert len(rows) == 4 * len(shares)  # the mean difference is one step, whatever is said of beyond
    # a scale of 0 is no edit, and the error of none is that of the unedited image
    assert rows["beyond 0, scale 0, rescale 0, all t"]["error"] == pytest.approx(1, abs=1e-6)
    assert rows["beyond 0, scale 0, rescale 0, all t, masked"]["error"] == pytest.approx(1, abs=1e-6)
    edited = rows["beyond 0, scale 2, rescale 0, all t"]
    assert edited["error"] != pytest.approx(1, abs=1e-3)
    assert edited["error"] == pytest.approx(np.mean([row["error"] for row in edited["attributes"].values()]))
    assert list(report["regions"]) == [f"{name}, beyond {share}" for name in EDITED for share in shares]
    assert (tmp_path / "sheet.png").exists()
    assert "beyond 0, scale 2, rescale 0, all t, masked" in capsys.readouterr().out
