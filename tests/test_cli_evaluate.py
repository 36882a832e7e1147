"""`zsem evaluate`, as people run it: a small model, grey digits in class folders, files out."""

import json
from dataclasses import replace

import pytest
import torch

from zsem.data.builtin import digits
from zsem.evaluation import study
from zsem.models.autoencoder import DiffusionAutoencoder

LITTLE = study.Amounts(
    reconstructed=2, z_judged=2, varied=2, labels=200, probed=100, edited=2, edited_attributes=1, judge_iterations=1,
    made=8, reference=129, conditions=1, conditioned=2, morphs=1, searched=50, long_ddim=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def grey(small_model, tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionAutoencoder(replace(small_model.config, image_channels=1))
    return model.save(tmp_path_factory.mktemp("run") / "grey")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("data") / "digits", size=16)


def test_a_page_and_figures_are_written_and_found_again(zsem, grey, data, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "QUICK", LITTLE)
    out = tmp_path / "out"
    args = ("evaluate", grey, data, "--out", out, "--quick", "--json", "--only", "reconstruction", "attributes")
    code, said, err = zsem(*args)
    assert code == 0, err
    results = json.loads(said)
    assert results == json.loads((out / "results.json").read_text())
    assert set(results["sections"]) == {"reconstruction", "attributes"}
    assert {f["of"] for f in results["sections"]["attributes"]["figures"]} == {str(i) for i in range(10)}
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<h2") == 5 and f"zsem evaluate {grey} {data}" in page and "--quick" in page
    code, again, err = zsem(*args)
    assert code == 0 and json.loads(again) == results and err.count("measured before") == 2
    code, said, _ = zsem(*(arg for arg in args if arg != "--json"))
    assert code == 0 and "report.html shows all of it" in said and "reconstruction" in said


def test_mistakes_are_told_before_anything_is_read(zsem, grey, data, image_folder, tmp_path):
    for options, sentence in (
        (("--only", "smell"), "there is no section 'smell': choose among reconstruction, health,"),
        (("--seed", "-1"), "--seed must be at least 0, not -1"),
    ):
        code, said, err = zsem("evaluate", grey, "nowhere", "--out", tmp_path / "out", *options)
        assert (code, said) == (2, "") and sentence in err
    code, _, err = zsem("evaluate", grey, "nowhere", "--out", tmp_path / "out")
    assert code == 2 and "nowhere does not exist" in err
    assert not (tmp_path / "out").exists()
