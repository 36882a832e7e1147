"""The commands of tables and figures with small, untrained models: what they write, that they go on, and by hand."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from experiments.reconstructions import closeness, from_components, with_fresh_noise
from experiments.tables import Cell, fill, spread, table, within
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from zsem import api
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8
from zsem.metrics.reconstruction import Reconstruction
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.judge import Judge
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.perceptual import load_stlpips
from zsem.semantics.probes import Probe
from zsem.values.codes import between
from zsem.values.draws import generator
from zsem.values.prediction import Condition


def rows_of(text):
    """Cells of all lines of tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def size_of(path):
    """Width and height of a picture."""
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture
def faces(two_hundred_faces):
    return load_images(two_hundred_faces, size=16)


def test_cells_are_made_once_and_their_cost_is_told(tmp_path, capsys):
    calls = []

    def cell(name, evaluations):
        return Cell(evaluations=evaluations, work=lambda: calls.append(name) or {"name": name})

    cells = {"a": cell("a", 100), "b": cell("b", 300), "c": cell("c", 0)}
    found = fill(tmp_path, {"a": cells["a"]})
    assert "1 cells, 0 of them are there; 100 evaluations" in capsys.readouterr().out
    assert found["a"]["name"] == "a"
    found = fill(tmp_path, cells)
    assert "3 cells, 1 of them are there; 300 evaluations" in capsys.readouterr().out
    assert calls == ["a", "b", "c"] and [figures["name"] for figures in found.values()] == calls


def test_how_figures_are_written():
    assert spread([1.0, 2.0, 4.0], ".2f") == f"{np.mean([1, 2, 4]):.2f} ± {np.std([1, 2, 4], ddof=1):.2f}"
    assert within(1.0, {"low": 0.5, "high": 2.25}, ".2f") == "1.00 (0.50 - 2.25)"
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_closeness_is_that_of_the_measures(faces):
    some = faces.held_out().limit(7)
    torch.manual_seed(1)
    decoded = from_uint8(some.pixels) + 0.3 * torch.randn(some.pixels.shape)
    distance = load_stlpips()
    figures = closeness(some, decoded, distance)
    counter = Reconstruction()
    counter.update(from_uint8(some.pixels), decoded.clamp(-1, 1))
    exact = counter.compute()
    assert figures["MSE"]["mean"] == pytest.approx(exact.mse) and figures["SSIM"]["mean"] == pytest.approx(exact.ssim)
    with torch.no_grad():
        apart = distance(from_uint8(some.pixels), decoded.clamp(-1, 1)).mean()
    assert figures["ST-LPIPS"]["mean"] == pytest.approx(float(apart), rel=1e-5)
    for name in ("SSIM", "ST-LPIPS", "MSE"):
        assert figures[name]["low"] < figures[name]["mean"] < figures[name]["high"]
    same = closeness(some, from_uint8(some.pixels), distance)
    assert same["MSE"]["mean"] == 0 and same["SSIM"]["mean"] == pytest.approx(1)


def test_images_from_components_are_the_nearest_in_their_span(faces):
    train, held_out = faces.split("train").pixels, faces.held_out().pixels
    found = from_components(train, held_out, 6)
    x = from_uint8(train).flatten(1).double().numpy()
    _, _, basis = np.linalg.svd(x - x.mean(0), full_matrices=False)
    centred = from_uint8(held_out).flatten(1).double().numpy() - x.mean(0)
    expected = centred @ basis[:6].T @ basis[:6] + x.mean(0)
    assert np.abs(found.flatten(1).numpy() - expected).max() < 0.05  # of a randomised solver


def test_fresh_noise_is_decoded_in_as_many_steps_as_asked(model, faces):
    codes = model.encode(faces.held_out().limit(3), noise=False)
    fresh = with_fresh_noise(model, codes, steps=5, seed=3)
    assert fresh.steps == 5 and torch.equal(fresh.z, codes.z) and fresh.codec == "ddim"
    assert torch.equal(fresh.noise.x_T, model.fresh_noise(3, seed=3).x_T)
    assert not torch.equal(model.decode(fresh), model.decode(replace(fresh, timesteps=codes.timesteps[-2:])))


def test_table_1_has_every_way_and_goes_on(command, runs, faces, monkeypatch, capsys):
    words = ["--number", 5, "--steps", 2, 3]
    out = command("table1", *words)
    figures = json.loads((out / "table1.json").read_text())
    rows = rows_of((out / "table1.md").read_text())
    assert len(rows) == 1 + 2 + 4 * 2 and len(figures) == 1 + 2 + 2 + 6 + 2 + 2
    dims = {row[0]: row[1] for row in rows[1:]}
    assert (dims["PCA"], dims["DDIM twin, inverted x_T"], dims["autoencoder, exact noise"]) == ("8", "768", "1,544")
    assert figures["exact-3-0"]["MSE"]["mean"] < 1e-10 < figures["ddim-3-0"]["MSE"]["mean"]
    assert figures["random-2-0"] != figures["random-2-1"] and figures["random-2-0"]["n"] == 5
    model, some = api.load(runs["autoencoder"]), faces.held_out().limit(5)
    expected = closeness(some, model.reconstruct(some, codec="ddim", steps=3), load_stlpips())
    assert figures["ddim-3-0"]["SSIM"]["mean"] == pytest.approx(expected["SSIM"]["mean"], abs=1e-5)
    assert size_of(out / "reconstructions.png")[1] > 7 * 64
    assert "evaluations/s" in capsys.readouterr().out
    monkeypatch.setattr("experiments.reconstructions.closeness", None)  # nothing is judged a second time
    command("table1", *words)
    assert json.loads((out / "table1.json").read_text()) == figures


def test_figure_4_compares_the_paths_of_both_models(command, runs, faces, monkeypatch):
    monkeypatch.setattr("experiments.figure4.WALKS", {"exact": 3, "ddim": 4})
    out = command("figure4", "--number", 5)
    figures = json.loads((out / "figure4.json").read_text())
    rows = rows_of((out / "figure4.md").read_text())
    assert len(rows) == 5 and {figures[name]["n"] for name in ("autoencoder-exact-3", "twin-ddim-4")} == {5}
    assert figures["autoencoder-exact-3"]["identical"] == figures["twin-exact-3"]["identical"] == 1
    assert figures["autoencoder-ddim-4"]["identical"] < 1
    # by hand: one pair after the other
    model, some, distance = api.load(runs["twin"]), faces.held_out().limit(10), load_stlpips()
    codes, found = model.invert(some, codec="ddim", steps=4), []
    for pair, point in enumerate(generator(0).random(5) * 0.999):
        way = between(codes[[pair]], codes[[5 + pair]], torch.tensor([point, point + 1e-3]).float())
        first, second = model.decode(way).split(1)
        found.append(float(distance(first, second)) * 1e6)
    assert figures["twin-ddim-4"]["distance"] == pytest.approx(np.mean(found), rel=0.05)
    assert size_of(out / "strips.png")[0] > 2 * 7 * 64


def test_quick_says_that_it_is_no_figure(command, monkeypatch):
    monkeypatch.setattr("experiments.figure4.QUICK_WALKS", {"exact": 2})
    out = command("figure4", "--quick")
    assert "These are no figures" in (out / "figure4.md").read_text()
    assert json.loads((out / "figure4.json").read_text())["quick"] is True


def test_too_few_images(command, capsys):
    with pytest.raises(SystemExit):
        command("table1", "--number", 1)
    assert "--number must be at least 4" in capsys.readouterr().err


def test_figure_6_follows_both_models_over_all_steps(command, runs, faces, monkeypatch):
    monkeypatch.setattr("experiments.figure6.STEPS", 5)
    out = command("figure6", "--number", 6)
    figures = json.loads((out / "figure6.json").read_text())
    text = (out / "figure6.md").read_text()
    assert len(rows_of(text)) == 2 * (1 + 5) and "of the 3 noisier steps" in text
    ours, theirs = (
        [step["mse"] for step in figures["fresh"][name]["steps"]] for name in ("autoencoder", "twin")
    )  # fmt: skip
    apart = [step["mse"] for step in figures["fresh"]["difference"]]
    assert apart == pytest.approx([a - b for a, b in zip(ours, theirs, strict=True)])
    # by hand: what the twin expects of the noisiest x_t
    model, some = api.load(runs["twin"]), faces.held_out().limit(6)
    grid, x0 = model.grid(5), from_uint8(some.pixels)
    x_t = grid.alpha[0] * x0 + grid.sigma[0] * model.fresh_noise(6).x_T
    with torch.no_grad():
        expected = model.denoiser(x_t.float(), grid.t[:1].expand(6), Condition()).x0
    assert theirs[0] == pytest.approx(float(((expected - x0) / 2).square().mean()), rel=1e-3)
    assert {path.name for path in out.glob("*.png")} == {"curves.png", "strips.png"}


def test_table_2_judges_every_length_of_z(command, runs, faces, model, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.table2.RESAMPLES", 20)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        longer = DiffusionAutoencoder(replace(model.config, z_dim=12))
    longer.measure_codes(faces.split("train"), faces.held_out())
    out = command("table2", "--number", 4, "--steps", 2, "--runs", runs["autoencoder"], longer.save(tmp_path / "z12"))
    figures, rows = json.loads((out / "table2.json").read_text()), rows_of((out / "table2.md").read_text())
    assert [row[0] for row in rows] == ["z", *["8"] * 3, *["12"] * 3, "z", "8", "12"]
    assert figures["12-random-2-0"] != figures["8-random-2-0"]
    # by hand: the AUROC of hats from eight components
    hat = figures["8-probes"]["pca"]["attributes"]["hat"]
    train, test = faces.split("train"), faces.held_out()
    pixels = [part.pixels.float().flatten(1).numpy() for part in (train, test)]
    pca = PCA(8, svd_solver="randomized", random_state=0).fit(pixels[0])
    probe = Probe().fit(pca.transform(pixels[0]), train.attributes["hat"])
    score = roc_auc_score(test.attributes["hat"], probe.decision_function(pca.transform(pixels[1])))
    assert hat["auroc"] == pytest.approx(score, abs=1e-6) and figures["8-probes"]["labels"] == 180
    scores = [row["auroc"] for row in figures["8-probes"]["z"]["attributes"].values()]
    assert figures["8-probes"]["z"]["mean"] == pytest.approx(np.mean(scores))


def test_auroc_is_weighted_by_positives(command, runs, faces, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.auroc.RESAMPLES", 20)
    judge = Judge(
        Judge.Config(
            attributes=tuple(faces.attributes), image_size=16,
            net=SemanticEncoder.Config(channels=8, channel_mult=(1,), num_res_blocks=1, attention_resolutions=()),
        )
    )  # fmt: skip
    pixels = faces.split("train").pixels
    judge.history = {"images_sha256": hashlib.sha256(pixels.numpy().data).hexdigest(), "iterations": 10**6}
    out = command("auroc", "--number", 150, "--judge", judge.save(tmp_path / "judge"))
    figures, rows = json.loads((out / "auroc.json").read_text()), rows_of((out / "auroc.md").read_text())
    assert len(rows) == 1 + 6 + 2 and figures["labels"] == 150
    held_out = faces.held_out().attributes
    shares = {name: held_out[name].sum() / sum(values.sum() for values in held_out.values()) for name in held_out}
    expected = sum(share * figures["attributes"][name]["vae"]["score"] for name, share in shares.items())
    assert figures["weighted mean"]["vae"] == pytest.approx(expected)
    assert rows[-1][0] == "weighted mean" and rows[-1][5] == f"{expected:.3f}"
    logits = judge.logits(faces.held_out())[:, judge.config.attributes.index("hat")]
    assert figures["attributes"]["hat"]["cnn"]["score"] == pytest.approx(roc_auc_score(held_out["hat"], logits))


def test_auroc_quick_trains_a_judge_of_its_own(command, monkeypatch):
    monkeypatch.setattr("experiments.auroc.RESAMPLES", 20)
    monkeypatch.setattr("experiments.auroc.QUICK_ITERATIONS", 2)
    out = command("auroc", "--quick")
    assert "These are no figures" in (out / "auroc.md").read_text()
    assert json.loads((out / "judge" / "config.json").read_text())["history"]["iterations"] == 2
