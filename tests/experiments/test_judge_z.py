"""The judgement of a small, untrained model on small faces: every part, end to end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experiments.judge_z import PARTS, Extent, edit, judge_z, lines, main
from experiments.judge_z import Run as JudgedRun

from zsem.data import builtin
from zsem.data.images import load_images
from zsem.models.judge import Judge
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.features import EfficientNetLite0
from zsem.semantics.probes import Probe
from zsem.training.judging import binary_attributes

EXTENT = Extent(number=150, alone=4, edited=3, pictures=6, reference=140, resamples=50)
EDITED = ("glasses", "smile")


def quiet(line: str) -> None:
    """The judgement says how far it is; here nobody listens."""


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return builtin.avatars(tmp_path_factory.mktemp("faces") / "set", number=300, size=16, workers=1)


@pytest.fixture(scope="module")
def images(faces):
    return load_images(faces, size=16)


@pytest.fixture(scope="module")
def judge(images) -> Judge:
    torch.manual_seed(0)
    net = SemanticEncoder.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool=2)
    return Judge(Judge.Config(attributes=tuple(images.attributes), image_size=16, net=net)).eval()


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    return EfficientNetLite0(size=32).eval()


@pytest.fixture(scope="module")
def report(model, faces, images, judge, network, tmp_path_factory):
    sheet = tmp_path_factory.mktemp("sheet") / "edits.png"
    made = judge_z(
        model, faces, images=images, judge=judge, network=network, edited=EDITED, extent=EXTENT, sheet=sheet,
        say=quiet,
    )  # fmt: skip
    assert sheet.exists()
    return made


def test_every_part_is_there_and_is_json(report):
    assert report.keys() >= set(PARTS)
    text = json.dumps(report, allow_nan=False)
    assert json.loads(text)["edits"]["n"] == 3
    assert any("FD-EffLite0 of 6" in line for line in lines(report))


def test_probes_tell_hats_from_pixels_and_say_how_sure_they_are(report):
    probes = report["probes"]
    assert (probes["train"], probes["held_out"]) == (150, 30)
    hat = probes["attributes"]["hat"]
    assert hat["pca"]["score"] > 0.7 and hat["pca"]["p"] < 0.05
    for figures in hat.values():
        assert figures["low"] <= figures["score"] <= figures["high"]
    scores = [row["z"]["score"] for row in probes["attributes"].values()]
    assert probes["mean"]["z"] == pytest.approx(sum(scores) / len(scores))


def test_edits_are_measured_against_the_true_counterfactuals(report, faces, images, judge):
    held_out = images.held_out()
    for row in report["edits"]["attributes"].values():
        assert row["truth"]["mse"] == 0 < row["unedited"]["mse"]
        assert row["unedited"]["target"] == row["unedited"]["leak"] == 0
        assert row["edited"]["leak"] > 0
    # by hand: what the judge thinks of the counterfactuals of the same three faces
    order = JudgedRun.order(len(held_out), EXTENT.seed)[:3]
    column = judge.config.attributes.index("smile")
    changes = []
    for place in order:
        value = held_out.attributes["smile"][place]
        index = int(Path(held_out.paths[place]).stem)
        flipped = builtin.counterfactual(faces, index, "smile", not value)
        before, after = judge.logits(torch.stack([held_out.pixels[place], flipped]))[:, column]
        changes.append(float((after - before) * (1 - 2 * value)))
    expected = sum(changes) / len(changes)
    assert report["edits"]["attributes"]["smile"]["truth"]["target"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", ["logistic", "mean"])
def test_an_edit_moves_z_to_where_the_other_kind_is(model, faces, images, method):
    run = JudgedRun(model, faces, binary_attributes(images), replace(EXTENT, method=method))
    probe = Probe(C=0.1).fit(run.normalised(run.z_train), run.train.attributes["hat"])
    codes = model.encode(run.held_out.subset(range(3)))
    direction = run.direction("hat", probe)
    moved = run.moved(codes, direction)
    scores = direction.logit(run.normalised(run.z_train))
    labels = torch.from_numpy(run.train.attributes["hat"])
    goal = [scores[labels == 1 - kind].mean() for kind in run.held_out.attributes["hat"][:3]]
    torch.testing.assert_close(direction.logit(run.normalised(moved.z)), torch.stack(goal), atol=1e-3, rtol=1e-3)
    assert edit(run, codes, direction).pixels.shape == (3, 3, 16, 16)


def test_judging_twice_gives_the_same_figures(report, model, faces, images, judge, network):
    parts = ("alone", "pictures")
    again = judge_z(model, faces, images=images, judge=judge, network=network, parts=parts, extent=EXTENT, say=quiet)
    assert [again[part] for part in parts] == [report[part] for part in parts]
    assert again.keys().isdisjoint({"probes", "edits"})


def test_the_command_writes_its_figures(model, faces, tmp_path, monkeypatch, capsys):
    model.save(tmp_path / "run")
    words = [tmp_path / "run", faces, "--number", "20", "--json", tmp_path / "out" / "z.json"]
    monkeypatch.setattr("sys.argv", ["judge_z", *map(str, words), "--skip", "pictures", "probes", "edits"])
    main()
    assert "z alone, 30 images: MSE" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "z.json").read_text())
    assert written["alone"]["n"] == 30 and written["run"] == str(tmp_path / "run")
