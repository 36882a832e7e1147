"""The commands whose tables are of samples, with small, untrained models and priors of a few iterations."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from experiments.compiling import compile_network
from experiments.samples import Watched, at_precision
from torch import nn
from torch._dynamo.utils import counters

from zsem import api
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8
from zsem.metrics.distribution import FrechetDistance
from zsem.metrics.samples import features_of
from zsem.models.prior import Prior
from zsem.nets.features import load_efficientnet_lite0

NETWORK = functools.partial(load_efficientnet_lite0, size=32)


@pytest.fixture
def faces(two_hundred_faces):
    return load_images(two_hundred_faces, size=16)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """The same network of features on images of 32 px, which is sixteen times quicker."""
    monkeypatch.setattr("experiments.samples.load_efficientnet_lite0", NETWORK)


class TwoConvolutions(nn.Module):
    """Ours cannot be compiled where a test has their types checked."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        return self.two(torch.nn.functional.silu(self.one(x)))


@pytest.mark.skipif(not shutil.which("g++"), reason="nothing is compiled")
def test_a_compiled_network_answers_as_before(monkeypatch):
    monkeypatch.setattr("experiments.compiling.WORTH_COMPILING", 5)
    torch.manual_seed(0)
    network = TwoConvolutions()
    images = torch.randn(4, 3, 16, 16)

    def answer():
        with torch.no_grad(), at_precision(torch.device("cpu")):
            return network(images).float()

    before = answer()
    compile_network(network, 4)
    assert torch.equal(answer(), before) and not counters["stats"]["unique_graphs"]
    compile_network(network, 5)
    torch.testing.assert_close(answer(), before, atol=0.02, rtol=0.02)
    assert counters["stats"]["unique_graphs"] == 1


def test_what_is_watched_gives_the_same_and_keeps_it(faces):
    network = NETWORK()
    watched, images = Watched(network), from_uint8(faces.pixels[:5])
    found = features_of(watched, images.split(2))
    torch.testing.assert_close(found, features_of(network, images.split(2)))
    assert torch.equal(torch.cat(watched.seen), found) and watched.frechet_name == "FD-EffLite0"


def test_table_4_judges_samples_of_all_rows_and_goes_on(command, runs, faces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.priors.ITERATIONS", 3)
    monkeypatch.setattr("experiments.table4.SETS", {2: 2, 3: 1})
    monkeypatch.setattr("experiments.samples.RESAMPLES", 5)
    words = ["--number", 6, "--rows", "twin", "latent", "mixture", "autoencoding", "latent-unipc", "mixture-unipc-100"]
    out = command("table4", *words)
    figures = json.loads((out / "table4.json").read_text())
    text = (out / "table4.md").read_text()
    assert len(figures) == 1 + 1 + 6 * 3 and "only 6 made" in text
    assert figures["mixture-2-0"]["frechet"] != figures["mixture-2-1"]["frechet"]
    mean = np.mean([figures[f"twin-2-{seed}"]["frechet"] for seed in (0, 1)])
    (row,) = [line for line in text.splitlines() if line.startswith("| DDIM baseline (twin) | ") and "±" in line][:1]
    assert f"{mean:.1f} ±" in row
    # by hand: the twin's samples against the training faces
    network, train = NETWORK(), faces.split("train").pixels
    real = features_of(network, map(from_uint8, train.split(64)))
    with at_precision(torch.device("cpu")):
        made = api.load(runs["twin"]).sample(6, seed=1, steps=2, solver="ddim", spacing="uniform").clamp(-1, 1)
    distance, features = FrechetDistance(real), features_of(network, [made])
    distance.update(features)
    assert figures["twin-2-1"]["frechet"] == pytest.approx(distance.compute().distance, rel=1e-3)
    held_out = features_of(network, [from_uint8(faces.held_out().pixels)])
    nearest, usual = (torch.cdist(part, real).amin(1).mean() for part in (features, held_out))
    assert figures["twin-2-1"]["memorisation"]["ratio"] == pytest.approx(float(nearest / usual), rel=1e-2)
    # and nothing is trained or judged a second time
    assert [api.load(path, kind=Prior) for path in (tmp_path / "runs" / "models").iterdir()]
    monkeypatch.setattr("experiments.samples.judged_set", None)
    monkeypatch.setattr("experiments.priors.api.fit_prior", None)
    command("table4", *words)
    assert json.loads((out / "table4.json").read_text()) == figures
    command("table4", *words, "--steps", 3)
    assert json.loads((out / "table4.json").read_text())["twin-3-0"] == figures["twin-3-0"]
    assert "T = 2" not in (out / "table4.md").read_text()


def test_rows_that_do_not_exist(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command("table4", "--quick", "--rows", "gan")
    assert "there is no row 'gan'" in capsys.readouterr().err


def test_the_ablation_of_the_latent_ddim(command, runs, faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.latent_ablation.LAYERS", (2, 10))
    monkeypatch.setattr("experiments.samples.RESAMPLES", 5)
    out = command("latent_ablation", "--quick")
    figures = json.loads((out / "latent_ablation.json").read_text())
    rows = [line for line in (out / "latent_ablation.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 4 and "| 10 (table 4) | L1" in rows[3]
    assert figures["2-l1"]["parameters"] < figures["10-l1"]["parameters"] == figures["10-l2"]["parameters"]
    assert f"{figures['2-l1']['memorisation']['ratio']:.3f}".removeprefix("0") in rows[1].split("|")[-2]
    assert figures["2-l1"]["distances"] != figures["2-l2"]["distances"] and len(figures["2-l1"]["distances"]) == 3
    # by hand: the distance of the training codes, whose normalised mean is 0
    model = api.load(runs["autoencoder"])
    train, held_out = (
        (model.encode(part, noise=False).z - model.z_mean) / model.z_std
        for part in (faces.split("train").limit(80), faces.held_out())
    )
    expected = FrechetDistance(held_out.double(), components=8)
    expected.update(train.double())
    assert figures["training"]["distances"][0] == pytest.approx(expected.compute().distance, rel=1e-4)
    assert (out / "distances.png").stat().st_size > 5000
