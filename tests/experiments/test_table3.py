"""The few-shot table with a small, untrained model: every part, end to end."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from experiments.table3 import ATTRIBUTES, ROWS
from PIL import Image

from zsem.nets.features import load_efficientnet_lite0


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """The same network of features on images of 32 px, which is sixteen times quicker."""
    network = functools.partial(load_efficientnet_lite0, size=32)
    monkeypatch.setattr("experiments.table3.load_efficientnet_lite0", network)


def test_the_rows_are_those_that_the_table_promises():
    known = {(r.scenario.positives, r.scenario.negatives, r.scenario.method) for r in ROWS.values()}
    assert known == {
        (5, 5, "elkan_noto"), (10, 10, "elkan_noto"), (50, 50, "elkan_noto"),
        (100, 0, "elkan_noto"), (100, 0, "nnpu"), (100, 0, "naive"),
    }  # fmt: skip
    assert all(row.scenario.unlabelled == 10_000 for row in ROWS.values())
    assert ATTRIBUTES == ("glasses", "smile", "hat")


def test_samples_are_judged_and_the_command_goes_on(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--quick", "--rows", "binary-5", "nnpu", "--attributes", "glasses"]
    # of 180 faces a hundred cannot be labelled
    fewer = replace(ROWS["nnpu"], scenario=replace(ROWS["nnpu"].scenario, positives=20))
    monkeypatch.setitem(ROWS, "nnpu", fewer)
    out = command("table3", *words)
    figures, text = json.loads((out / "table3.json").read_text()), (out / "table3.md").read_text()
    assert set(figures) == {
        "quick", "glasses-real", "glasses-all",
        *(f"glasses-{row}-{draw}" for row in ("binary-5", "nnpu") for draw in (0, 1)),
    }  # fmt: skip
    sets = [figures[f"glasses-binary-5-{draw}"] for draw in (0, 1)]
    assert [f["fitted"]["positive"] for f in sets] == [5, 5] and sets[0]["fitted"] != sets[1]["fitted"]
    assert all(0 <= f["accuracy"] <= 1 and f["n"] == 4 and f["memorisation"]["n"] == 4 for f in sets)
    mean = np.mean([f["fitted"]["auroc"] for f in sets])
    assert "## glasses" in text and f"| 5 + 5 | {mean:.3f} ±" in text and (out / "samples.png").exists()
    assert figures["glasses-all"]["n"] == 4 and "fitted" not in figures["glasses-all"]
    monkeypatch.setattr("experiments.table3.fit_scenario", None)  # nothing is fitted or judged a second time
    monkeypatch.setattr("experiments.table3.draw", lambda *_: Image.new("RGB", (1, 1)))
    command("table3", *words)
    assert json.loads((out / "table3.json").read_text()) == figures


def test_attributes_that_do_not_exist(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command("table3", "--quick", "--attributes", "wings")
    assert "there is no attribute 'wings'" in capsys.readouterr().err
