"""An evaluation of an untrained model on discs: what it measures, keeps, leaves out and shows."""

import base64
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.evaluation import evaluate as evaluation
from zsem.evaluation.bench_edit import AttributeResult
from zsem.evaluation.chapters import edits, sampling
from zsem.evaluation.evaluate import CHAPTERS, NAMES, as_json, evaluate
from zsem.evaluation.findings import Finding, as_text
from zsem.evaluation.page import TERMS, write_evaluation
from zsem.evaluation.study import Amounts, Study
from zsem.metrics.editing import EditFigures
from zsem.metrics.health import health_of_z
from zsem.metrics.reconstruction import Reconstruction
from zsem.models.diffusion import DiffusionModel
from zsem.models.mixture import LatentMixture
from zsem.nets import features, perceptual
from zsem.nets.unet import UNet
from zsem.values.errors import ZsemError

LITTLE = Amounts(
    reconstructed=3, long_ddim=0, z_judged=5, varied=2, labels=60, probed=40, edited=4, edited_attributes=1,
    judge_iterations=2, made=10, reference=140, conditions=1, conditioned=3, morphs=2, searched=50,
)  # fmt: skip
COMMAND = ("zsem", "evaluate", "runs/discs", "my discs", "--out", "out")


@pytest.fixture(scope="module")
def discs(labelled_discs):
    """Fewer of them, in an order that their names tell."""
    rows = [*range(150), *range(500, 524)]
    return labelled_discs.subset(rows)


def study_of(model, images, folder, **more) -> Study:
    settings = {"run": "runs/discs", "data": "my discs", "amounts": LITTLE, **more}
    return Study(model, images, folder=folder, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def study(small_model, discs, folder):
    return study_of(small_model, discs, folder)


@pytest.fixture(scope="module")
def evaluated(study):
    return evaluate(study)


@pytest.fixture(scope="module")
def results(study, evaluated):
    return json.loads(json.dumps(as_json(study, evaluated), allow_nan=False))


@pytest.fixture(scope="module")
def page(study, evaluated, folder):
    return write_evaluation(folder / "report.html", study, evaluated, COMMAND).read_text("utf-8")


def figure(results, section, of, name):
    found = [f for f in results["sections"][section]["figures"] if (f["of"], f["name"]) == (of, name)]
    assert len(found) == 1
    return found[0]


def plain() -> DiffusionModel:
    """A small plain diffusion model of grey images."""
    unet = UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(), embed_channels=32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return DiffusionModel(DiffusionModel.Config(image_size=16, image_channels=1, unet=unet)).eval()


def test_every_section_is_measured_and_every_figure_says_how_sure_it_is(results):
    assert set(results["sections"]) | set(results["left_out"]) == set(NAMES)
    assert {"reconstruction", "health", "attributes", "edits", "sampling", "interpolation"} <= set(results["sections"])
    for section in results["sections"].values():
        assert section["figures"] and section["verdict"]
        for f in section["figures"]:
            assert f["n"] >= 1 and f["meaning"] and f["unit"]
            if f["low"] is None:  # the figure itself says why
                assert f["value"] is None or "interval" in f["meaning"] or f["unit"] == "ratio"
            elif f["name"] != "FD-EffLite0":  # biased: its interval is moved onto it, not around every sample
                assert f["low"] <= f["value"] <= f["high"]
    assert 1 <= len(results["verdict"]) <= 5


def test_reconstruction_is_what_the_metric_says(results, study, small_model):
    images = study.some(3)
    decoded = small_model.decode(small_model.encode(images))
    metric = Reconstruction()
    metric.update(study.floats(images), decoded)
    expected = metric.compute()
    for name, value in (("MSE", expected.mse), ("SSIM", expected.ssim), ("identical pixels", expected.identical)):
        found = figure(results, "reconstruction", "exact codec", name)
        assert found["value"] == pytest.approx(value, rel=1e-4, abs=1e-12) and found["n"] == 3
    assert expected.identical == 1
    assert figure(results, "reconstruction", "z, random noise", "identical pixels")["value"] < 0.5
    assert figure(results, "interpolation", "first and last frames", "identical pixels")["value"] == 1


def test_health_is_what_the_metric_says(results, study, small_model):
    expected = health_of_z(small_model, study.some(5))
    assert figure(results, "health", "with another image's z", "wrong z / own z")["value"] == pytest.approx(
        expected.ratio, rel=1e-5
    )
    own = figure(results, "health", "with its own z", "error of the guess")
    assert own["value"] == pytest.approx(np.mean(expected.right), rel=1e-5)


def test_the_page_shows_every_figure_and_loads_nothing(page, results):
    assert not re.search(r"https?:|src=\"(?!data:)|@import|url\(", page)
    parts = dict(re.findall(r'<h2 id="(\w+)">(.*?)(?=<h2)', page, flags=re.S))
    assert set(parts) == set(results["sections"])
    for name, section in results["sections"].items():
        shown = html.unescape(parts[name])
        for f in section["figures"]:
            assert f["of"] in shown and f["name"] in shown and f["meaning"] in shown and str(f["n"]) in shown
            assert as_text(f["value"], f["unit"]) in shown
            if f["low"] is not None:
                assert f"{as_text(f['low'], f['unit'])} – {as_text(f['high'], f['unit'])}" in shown
        assert all(sentence["text"] in shown for sentence in section["verdict"])
        pictures = re.findall(r"data:image/png;base64,([^\"]+)", parts[name])
        assert pictures and all(Image.open(io.BytesIO(base64.b64decode(data))).width > 50 for data in pictures)
    text = html.unescape(page)
    assert all(sentence["text"] in text for sentence in results["verdict"])
    assert all(why in text for why in results["left_out"].values())
    assert "zsem evaluate runs/discs 'my discs' --out out" in text
    assert all(term in text for term in TERMS)


def test_what_is_done_is_not_done_again_and_a_stop_loses_one_section(small_model, discs, tmp_path, monkeypatch):
    only = ("reconstruction", "health", "interpolation")
    monkeypatch.setattr(perceptual, "PACKAGE", "no_such_package")  # which spares time
    done = []

    def spied(stop=None):
        def spy(chapter):
            def measure(study):
                if chapter.name == stop:
                    raise KeyboardInterrupt
                done.append(chapter.name)
                return chapter.measure(study)

            return replace(chapter, measure=measure)

        monkeypatch.setattr(evaluation, "CHAPTERS", tuple(map(spy, CHAPTERS)))

    spied(stop="interpolation")
    with pytest.raises(KeyboardInterrupt):
        evaluate(study_of(small_model, discs, tmp_path), only=only)
    assert done == ["reconstruction", "health"]
    spied()
    told = []
    second = study_of(small_model, discs, tmp_path)
    found = as_json(second, evaluate(second, only=only, say=told.append))
    assert done == ["reconstruction", "health", "interpolation"]
    assert "reconstruction: measured before" in told
    # equal seeds give equal results, whether they were kept or not
    monkeypatch.setattr(evaluation, "CHAPTERS", CHAPTERS)
    fresh = study_of(small_model, discs, tmp_path / "fresh")
    assert as_json(fresh, evaluate(fresh, only=only)) == found
    # with other settings, another seed or other images a section is measured again
    spied()
    more = replace(LITTLE, z_judged=6)
    evaluate(study_of(small_model, discs, tmp_path, amounts=more), only=["health", "reconstruction"])
    assert done[3:] == ["health"]
    evaluate(study_of(small_model, discs, tmp_path, seed=1), only=["interpolation"])
    evaluate(study_of(small_model, discs.subset(range(5, 174)), tmp_path), only=["interpolation"])
    assert done[4:] == ["interpolation", "interpolation"]
    file = tmp_path / "sections" / "health.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ZsemError, match=r"is damaged .* delete it"):
        evaluate(study_of(small_model, discs, tmp_path, amounts=more), only=["health"])


def test_a_plain_diffusion_model_without_labels_is_judged_by_what_it_can(discs, tmp_path):
    grey = replace(discs, pixels=discs.pixels[:, :1].contiguous(), attributes={})
    study = study_of(plain(), grey, tmp_path)
    evaluated = evaluate(study)
    assert set(evaluated.findings) == {"reconstruction", "sampling", "memorisation", "interpolation"}
    assert all(text.endswith(".") for text in evaluated.left_out.values())
    assert "no semantic codes" in evaluated.left_out["health"]
    assert {f.of for f in evaluated.findings["reconstruction"].figures} == {"exact codec", "DDIM, 19 steps"}
    page = write_evaluation(tmp_path / "report.html", study, evaluated, COMMAND).read_text("utf-8")
    assert "plain diffusion model" in page and "What was left out" in page


def test_without_weights_the_page_says_what_is_missing(small_model, discs, tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual, "PACKAGE", "no_such_package")
    monkeypatch.setattr(features, "PACKAGE", "no_such_package")
    study = study_of(small_model, replace(discs, attributes={}), tmp_path)
    evaluated = evaluate(study, only=["reconstruction", "sampling", "attributes", "edits"])
    notes = [note for finding in evaluated.findings.values() for note in finding.notes]
    assert sum("pip install 'zsem[metrics]'" in note for note in notes) == 2
    assert not any(f.name == "ST-LPIPS" for f in evaluated.findings["reconstruction"].figures)
    assert evaluated.findings["sampling"].figures == [] and evaluated.findings["sampling"].pictures
    assert "no labels" in evaluated.left_out["attributes"] and "0/1" in evaluated.left_out["edits"]


def test_few_held_out_images_are_no_error(small_model, discs, tmp_path):
    study = study_of(small_model, discs.subset([*range(30), 150]), tmp_path)
    evaluated = evaluate(study)
    assert set(evaluated.left_out) >= {"health", "attributes", "edits", "interpolation"}
    assert evaluated.findings["sampling"].figures == []


def test_two_classes_are_edited_as_one_attribute(study):
    assert edits.edited(study) == ["red"] and study.binary == ["red"]
    assert study.learnable == ["redness", "red"]


def test_with_a_prior_images_are_made_and_asked_for(small_model, discs, tmp_path):
    z = small_model.encode(discs.split("train"), noise=False).z
    prior = LatentMixture.fit(z, seed=0)
    study = study_of(small_model, discs, tmp_path, prior=prior)
    evaluated = evaluate(study, only=["sampling", "conditions", "memorisation"])
    assert not evaluated.left_out
    for name in ("sampling", "memorisation"):
        assert {"samples", "+ autoencoding"} <= {f.of for f in evaluated.findings[name].figures}
    seen, usual, right = evaluated.findings["conditions"].figures
    assert {f.of for f in (seen, usual, right)} == {"red"} and seen.n == 3
    labels = discs.split("train").attributes["red"]
    assert usual.value == pytest.approx(np.nanmean(labels)) and usual.n == (~np.isnan(labels)).sum()
    expected = small_model.sample(3, prior=prior, where=study.semantics.log_p({"red": 1}))
    found = study.judge.logits(small_model.config.intensity.restore(expected.clamp(-1, 1)))[:, 0] > 0
    assert seen.value == pytest.approx(float(found.double().mean()))
    prior.history["model"] = "another"
    with pytest.raises(ZsemError, match="the prior belongs to model another"):
        study_of(small_model, discs, tmp_path, prior=prior)


def test_a_conditional_model_is_asked_for_its_classes(discs, tmp_path):
    config = plain().config.for_classes(["blue", "red"])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = DiffusionModel(config).eval()
    red = np.nan_to_num(discs.attributes["red"])
    grey = replace(
        discs, pixels=discs.pixels[:, :1].contiguous(), attributes={"red": red}, class_names=["blue", "red"],
        classes=torch.from_numpy(red).long(),
    )  # fmt: skip
    study = study_of(model, grey, tmp_path, classes=("red",), amounts=replace(LITTLE, conditions=2))
    evaluated = evaluate(study, only=["reconstruction", "conditions", "interpolation"])
    assert {f.of for f in evaluated.findings["conditions"].figures} == {"blue", "red"}
    shares = {f.of: f.value for f in evaluated.findings["conditions"].figures if f.name == "among real ones"}
    assert shares["blue"] == pytest.approx(1 - shares["red"])
    exact = [f for f in evaluated.findings["reconstruction"].figures if f.of == "exact codec"]
    assert {f.name: f.value for f in exact}["identical pixels"] == 1
    assert "two classes" in evaluated.left_out["interpolation"]
    others = study_of(model, replace(grey, class_names=["a", "b"]), tmp_path)
    assert "not in folders of its classes" in evaluate(others, only=["reconstruction"]).left_out["reconstruction"]


def test_leakage_is_no_merit_of_edits_that_nobody_sees():
    seen = EditFigures(
        n=9, change=0.6, hit=0.8, before=0.1, leakage=0.05, requested=0.2, outside=None, error=None, unedited=None,
        nearer=None,
    )  # fmt: skip
    unseen = replace(seen, change=0.01, hit=0.1, leakage=0.0)
    said = [
        [sentence.text for sentence in edits.verdict([
            AttributeResult(name="hat", methods={edits.DEFAULT: figures}, intervals={}, monotonicity=None, pictures={})
        ])]
        for figures in (seen, unseen)
    ]  # fmt: skip
    assert "the others change 0.05 times as much" in said[0][1] and len(said[0]) == 2
    assert said[1][1:] == ["Not even every second edit is seen of: hat."]


def test_without_a_prior_the_command_that_makes_one_is_told(evaluated):
    (note, *_) = evaluated.findings["sampling"].notes
    assert sampling.PRIOR.format(run="runs/discs", data="my discs") in note


def test_a_finding_is_kept_whole(evaluated):
    for finding in evaluated.findings.values():
        known, tensors = finding.kept()
        back = Finding.found(json.loads(json.dumps(known)), tensors)
        assert list(back.figures) == list(finding.figures) and list(back.verdict) == list(finding.verdict)
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(back.pictures, finding.pictures, strict=True))


def test_unknown_sections_are_told(study):
    with pytest.raises(ZsemError, match="no section 'smell': choose among reconstruction,"):
        evaluate(study, only=["smell"])


def test_shares_are_rounded_down():
    assert as_text(0.99999, "share") == "99.99 %" and as_text(1.0, "share") == "100 %"
    assert as_text(-1e-9, "score") == "0.000" and as_text(-0.25, "score") == "-0.250"
    assert as_text(None, "ratio") == "–" and as_text(3e-9, "squared error") == "3.0e-09"
