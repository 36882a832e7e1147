"""The rows of ADM's ablation, and the whole command with networks of the least size."""

import json
from dataclasses import replace

import pytest
import torch
from experiments.adm_ablation import BASE, ROWS, main, name_of, recipe_of
from experiments.runs import kept, train

from zsem.data.pixels import save_png
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import UNet


def parameters(row):
    with torch.device("meta"):
        return sum(p.numel() for p in DiffusionModel(recipe_of(row, images=0, limit=None).preset.model).parameters())


def test_every_row_changes_its_part_of_the_base_and_the_last_has_what_adm_chose():
    nets = {row: recipe_of(row, images=0, limit=None).preset.model.unet for row in ROWS}
    assert nets["base"] == BASE
    assert len(set(nets.values())) == len(nets) == 7
    chosen = ("more heads", "attention on all levels", "resampling by residual blocks")
    assert nets["ADM"] == replace(BASE, **{name: value for row in chosen for name, value in ROWS[row].items()})
    assert len({name_of(row) for row in ROWS}) == 7


def test_depth_takes_the_place_of_width_at_equal_size():
    assert parameters("depth instead of width") == pytest.approx(parameters("base"), rel=0.01)


def test_what_is_kept_is_not_done_again(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"value": 3}

    first = kept(tmp_path / "deep" / "a.json", work)
    assert first["value"] == 3 and first["seconds"] >= 0
    assert kept(tmp_path / "deep" / "a.json", work) == first and len(calls) == 1


def test_the_command_trains_judges_and_goes_on(tmp_path, monkeypatch, capsys):
    small = UNet.Config(
        channels=8, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=8, patch=4
    )
    monkeypatch.setattr("experiments.adm_ablation.BASE", small)
    monkeypatch.setattr("experiments.adm_ablation.ROWS", {"base": {}, "more heads": {"num_heads": 2}})
    monkeypatch.setattr("experiments.adm_ablation.RESAMPLES", 5)
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    for i in range(160):
        pixels = torch.full((3, 32, 32), i, dtype=torch.uint8)
        pixels[i % 2 :: 2, i // 8 :] = 255 - i
        save_png(pixels, data / ("train" if i < 140 else "test") / "ab"[i % 2] / f"{i}.png")
    words = ["--cifar10", data, "--minutes", "0.001", "--number", "10", "--limit", "150", "--out", "out"]
    monkeypatch.setattr("sys.argv", ["adm_ablation", *map(str, words)])
    main()
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in capsys.readouterr().out
    rows = [line.split(" | ") for line in report.splitlines() if line.startswith(("| base", "| more"))]
    assert [row[3] for row in rows] == ["1", "2"] and "only 10 made" in report
    (plan,) = (tmp_path / "out").glob("plan-*.json")
    images = json.loads(plan.read_text())["images"]
    histories = [json.loads(path.read_text())["history"] for path in tmp_path.glob("runs/models/adm-*/config.json")]
    assert [history["images"] for history in histories] == [images] * 2 and images % 64 == 0
    figures = [json.loads(path.read_text())["frechet"] for path in sorted((tmp_path / "out" / "cells").iterdir())]
    assert len(figures) == 2 and f"{figures[0]:.1f}" in report
    monkeypatch.setattr(
        "experiments.adm_ablation.judge_distribution", None
    )  # nothing is judged or trained a second time
    main()
    assert (tmp_path / "out" / "report.md").read_text() == report


def test_a_stopped_training_does_not_begin_the_next(tmp_path, monkeypatch):
    """The loop ends orderly when it is asked to stop, with fewer iterations than the recipe has."""
    seen = []

    def stopped(data, run, **settings):
        seen.append(run.name)
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({"history": {"iterations": 3}}))

    monkeypatch.setattr("experiments.runs.api.train", stopped)
    monkeypatch.chdir(tmp_path)
    recipes = {row: recipe_of(row, images=640, limit=None) for row in ("base", "ADM")}
    with pytest.raises(SystemExit, match="base was stopped; the same command goes on"):
        train(recipes, "nowhere")
    assert seen == [recipes["base"].run("base").name]
    assert recipes["base"].done("base") == 0.3 and recipes["ADM"].done("ADM") == 0


def test_what_cannot_be_trained(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["adm_ablation", "--cifar10", "x", "--minutes", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "--minutes must be above 0" in capsys.readouterr().err
