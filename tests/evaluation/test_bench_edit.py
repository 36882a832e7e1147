"""The protocol of edits on small faces and an untrained model: what it asks for, what its ends are, what it writes."""

import copy
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from zsem.evaluation.bench_edit import (
    DEFAULT,
    MASKED,
    METHODS,
    ORACLE,
    RANDOM,
    BenchOptions,
    EditBench,
    as_json,
    read_result,
)
from zsem.evaluation.flipping import HIGH, LOW
from zsem.models.judge import Judge
from zsem.nets.encoder import SemanticEncoder
from zsem.semantics.attributes import learn
from zsem.semantics.directions import lengths
from zsem.values.errors import ZsemError

OPTIONS = BenchOptions(number=6, amounts_of=2, batch_size=4)


@pytest.fixture(scope="module")
def model(small_model):
    return copy.deepcopy(small_model)  # its statistics are measured here


@pytest.fixture(scope="module")
def judge(images):
    torch.manual_seed(0)
    net = SemanticEncoder.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool=2)
    return Judge(Judge.Config(attributes=tuple(images.attributes), image_size=16, net=net)).eval()


@pytest.fixture(scope="module")
def semantics(model, images):
    train = images.split("train")
    z = model.encode(train, noise=False, batch_size=64).z
    model.z_mean.copy_(z.mean(0))
    model.z_std.copy_(z.std(0))
    return learn(z, train.attributes, model)


@pytest.fixture(scope="module")
def bench(model, images, semantics, judge):
    return EditBench(model, images, semantics, judge, OPTIONS)


@pytest.fixture(scope="module")
def result(bench):
    return bench.attribute("long_hair")


def test_every_method_is_measured(result, bench):
    assert tuple(result.methods) == METHODS
    hats = [
        i
        for i, (hat, hair) in enumerate(zip(*(bench.edited.attributes[n] for n in ("hat", "long_hair")), strict=True))
        if hat
    ]
    for figures in result.methods.values():
        assert figures.n == 6 - len([i for i in hats if bench.edited.attributes["long_hair"][i] == 0])
        assert None not in (figures.error, figures.unedited, figures.outside)
    assert len({figures.unedited for figures in result.methods.values()}) == 1
    assert set(result.pictures) == {"original", "logistic", DEFAULT, MASKED, "truth"}


def test_the_masked_edit_changes_less(result):
    assert result.methods[MASKED].outside <= result.methods[DEFAULT].outside


def test_requests_are_reached_in_the_probes_own_probability(bench, semantics):
    requested = torch.tensor([LOW, HIGH, HIGH, LOW, HIGH, LOW], dtype=torch.float64)
    exact, z = (bench.moved(bench.codes.z, "smile", requested, DEFAULT, exact=exact) for exact in (True, False))
    assert np.allclose(semantics.score(exact, "smile"), requested, atol=1e-3)
    side = np.sign(requested.numpy() - 0.5)
    assert (side * (semantics.score(z, "smile") - requested.numpy()) > -1e-3).all()  # at least


def test_random_steps_are_as_long_as_the_defaults(bench, semantics):
    z = bench.codes.z
    aim = bench.moved(z, "smile", torch.full((6,), HIGH, dtype=torch.float64), DEFAULT)
    away = bench.somewhere(z, aim, "smile")
    both = [
        lengths(semantics.normalised(end) - semantics.normalised(z), semantics.covariance.double().numpy())
        for end in (aim, away)
    ]
    assert np.allclose(*both, rtol=1e-3)
    assert not torch.allclose(aim, away)


def test_the_oracle_is_the_code_of_the_truth(bench, model):
    known = bench.flippable("glasses")
    truth = torch.stack(list(known.values()))
    z = bench.target(ORACLE, "glasses", bench.codes, torch.full((6,), HIGH), truth)
    assert torch.allclose(z, model.encode(truth, noise=False).z)
    assert bench.target(ORACLE, "glasses", bench.codes, torch.full((6,), HIGH), None) is None


def test_without_avatars_there_is_no_truth(model, images, semantics, judge):
    elsewhere = EditBench(model, replace(images, source="elsewhere"), semantics, judge, replace(OPTIONS, number=3))
    result = elsewhere.attribute("glasses")
    assert ORACLE not in result.methods
    assert result.methods[RANDOM].error is None
    figures = as_json([result])
    assert figures["mean"][DEFAULT]["error"] is None
    assert figures["mean"][DEFAULT]["hit"] == result.methods[DEFAULT].hit
    assert json.loads(json.dumps(figures)) == figures


def test_too_few_images_are_told(model, images, semantics, judge):
    with pytest.raises(ZsemError, match=r"20 images are edited and as many more .* only 30 are held out"):
        EditBench(model, images, semantics, judge, replace(OPTIONS, number=20))


@pytest.mark.parametrize(("field", "least"), [("number", 1), ("amounts_of", 0), ("batch_size", 1)])
def test_numbers_that_measure_nothing_are_told(model, images, semantics, judge, field, least):
    with pytest.raises(ZsemError, match=rf"--{field.replace('_', '-')} must be at least {least}, not {least - 1}"):
        EditBench(model, images, semantics, judge, replace(OPTIONS, **{field: least - 1}))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"methods": (DEFAULT, "magic")}, "magic is none: choose among logistic,"),
        ({"methods": (RANDOM,)}, "must have constrained among them"),
        ({"attributes": ("smile", "wings")}, "wings cannot be edited: choose among"),
    ],
)
def test_what_cannot_be_compared_or_edited_is_told(model, images, semantics, judge, option, sentence):
    with pytest.raises(ZsemError, match=sentence):
        EditBench(model, images, semantics, judge, replace(OPTIONS, **option))


def test_a_bench_may_be_of_some_attributes_and_methods(model, images, semantics, judge):
    options = replace(OPTIONS, attributes=("smile",), methods=(DEFAULT, RANDOM), amounts_of=0)
    (result,) = EditBench(model, images, semantics, judge, options).run()
    assert (result.name, tuple(result.methods), result.monotonicity) == ("smile", (DEFAULT, RANDOM), None)
    for method, figures in result.methods.items():
        ends = result.intervals[method]
        assert set(ends) >= {"change", "hit", "before"}
        assert all(ends[name].low <= getattr(figures, name) <= ends[name].high for name in ends)


def test_labels_that_cannot_calibrate_the_judge_are_told(model, images, semantics, judge):
    constant = {**images.attributes, "hat": np.zeros(len(images), np.float32)}
    with pytest.raises(ZsemError, match=r"calibrate the judge all have one label of hat or none"):
        EditBench(model, replace(images, attributes=constant), semantics, judge, OPTIONS)
    fewer = {name: values for name, values in images.attributes.items() if name != "hat"}
    with pytest.raises(ZsemError, match=r"the judge knows hat, which .* has no labels for"):
        EditBench(model, replace(images, attributes=fewer), semantics, judge, OPTIONS)


def test_a_bench_that_was_stopped_goes_on_where_it_was(model, images, semantics, judge, tmp_path, monkeypatch):
    options = replace(OPTIONS, number=1, amounts_of=1)
    bench = EditBench(model, images, semantics, judge, options)
    bench.names = ["smile", "glasses"]
    measure, measured = EditBench.attribute, []

    def stopped_at(stop):
        def attribute(self, name):
            if name == stop:
                raise KeyboardInterrupt
            measured.append(measure(self, name))
            return measured[-1]

        monkeypatch.setattr(EditBench, "attribute", attribute)

    stopped_at("glasses")
    with pytest.raises(KeyboardInterrupt):
        bench.run(folder=tmp_path)
    stopped_at(None)
    results = bench.run(folder=tmp_path)
    again = bench.run(folder=tmp_path)
    assert [result.name for result in measured] == ["smile", "glasses"]  # once each
    assert as_json(again) == as_json(results) == as_json(measured)
    for one, other in zip(again, measured, strict=True):
        assert list(one.pictures) == list(other.pictures)
        assert all(torch.equal(one.pictures[name], other.pictures[name]) for name in one.pictures)
    # with anything else than it was made with, a result is made again
    changed = {name: replace(a, choice=replace(a.choice, g=1.0, lam=0.0)) for name, a in semantics.attributes.items()}
    for others in (
        EditBench(model, images, semantics, judge, replace(options, seed=1)),
        EditBench(model, images, replace(semantics, attributes=changed), judge, options),
    ):
        others.names = ["smile", "glasses"]
        assert read_result(tmp_path / others.file("smile"), others.origin(), others.directions("smile")) is None
    file = tmp_path / bench.file("smile")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ZsemError, match=r"is damaged .* delete it"):
        bench.run(folder=tmp_path)


def test_the_command_tells_what_cannot_be_before_it_trains_a_judge(zsem, model, faces, tmp_path):
    model.save(tmp_path / "model")
    for options, sentence in ((("--number", "20"), "only 30 are held out"), (("--labels", "0"), "--labels must be at")):
        code, out, err = zsem("bench", "edit", tmp_path / "model", faces, "--out", tmp_path / "out", *options)
        assert (code, out) == (2, "") and sentence in err
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_page_and_figures(zsem, model, semantics, judge, images, faces, tmp_path):
    model.save(tmp_path / "model")
    trained = Judge(judge.config)
    trained.load_state_dict(judge.state_dict())
    checksum = hashlib.sha256(images.split("train").pixels.numpy().data).hexdigest()
    trained.history = {"images_sha256": checksum, "iterations": 10**6}
    trained.save(tmp_path / "judge")
    code, out, err = zsem(
        "bench", "edit", tmp_path / "model", faces, "--out", tmp_path / "out", "--judge", tmp_path / "judge",
        "--number", "2", "--amounts-of", "1", "--labels", "200", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "out" / "results.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    figures = json.loads(out)["attributes"]
    assert len(list((tmp_path / "out" / "attributes").iterdir())) == len(figures)  # what a stopped command goes on from
    assert len(figures) > 1
    assert all(name.replace("_", " ") in page for name in figures)
    assert "MSE to truth</" in page and "beside the true counterfactuals." in page
