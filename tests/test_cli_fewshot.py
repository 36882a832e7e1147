"""`zsem fewshot` on a small model whose z tells dark discs from light ones."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.mixture import LatentMixture
from zsem.semantics.fewshot import FewShot


@pytest.fixture(scope="module")
def data(image_folder, tmp_path_factory) -> Path:
    """Discs, darkened where their number is even; twelve examples of each kind."""
    data = tmp_path_factory.mktemp("fewshot")
    for i, path in enumerate(sorted(image_folder.glob("*.png"))):
        kind = "light" if i % 2 else "dark"
        picture = Image.open(path).point(lambda v, kind=kind: v // 6 if kind == "dark" else 128 + v // 2)
        folders = ["all", *([kind] if i < 24 else [])]
        for folder in folders:
            (data / folder).mkdir(exist_ok=True)
            picture.save(data / folder / path.name)
    return data


@pytest.fixture(scope="module")
def run(small_model, data, tmp_path_factory) -> Path:
    """The model with its statistics and a mixture of the codes of all discs."""
    model = copy.deepcopy(small_model)
    pixels = load_images(data / "all", size=16).pixels
    model.measure_codes(pixels, pixels[:2])
    folder = model.save(tmp_path_factory.mktemp("run") / "model")
    z = model.encode(pixels, noise=False).z
    prior = LatentMixture.fit(torch.cat([z, z + 0.01 * z.std(0)]))
    prior.history["model"] = model.stamp
    prior.save(folder / "prior")
    return folder


def probability(run: Path, folder: Path) -> float:
    """What the classifier of a folder says of z, under the prior with its condition, on average."""
    model = DiffusionAutoencoder.from_pretrained(run)
    found = FewShot.load(folder / "fewshot.safetensors", model)
    z = LatentMixture.from_pretrained(run / "prior").sample(64, seed=3, where=found.condition())
    return float(found.probability(z).mean())


def test_from_positive_and_negative_examples(zsem, run, data, tmp_path):
    args = ("fewshot", run, "--positive", data / "light", "--negative", data / "dark", "-n", 10, "--steps", 4)
    code, out, err = zsem(*args, "--out", tmp_path / "made", "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["method"] == "binary" and figures["positive"] == figures["negative"] == 12
    assert figures["class_prior"] == pytest.approx(0.5, abs=0.2)
    assert figures["acceptance"] == pytest.approx(figures["class_prior"], abs=0.25)
    assert figures["nfe"] == 4 and figures["n"] == 10
    made = sorted((tmp_path / "made" / "images").glob("*.png"))
    assert len(made) == 10 and (tmp_path / "made" / "sample.png").exists()
    assert probability(run, tmp_path / "made") > figures["acceptance"] + 0.05
    code, out, _ = zsem(*args, "--out", tmp_path / "again", "--batch-size", 3)
    assert code == 0 and "12 + 12" in out
    for path in made:  # whatever the batch
        one, other = (np.asarray(Image.open(p)).astype(int) for p in (path, tmp_path / "again" / "images" / path.name))
        assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("method", ["elkan_noto", "nnpu", "naive"])
def test_from_positive_and_unlabelled_examples(zsem, run, data, tmp_path, method):
    args = ("fewshot", run, "--positive", data / "light", "--unlabelled", data / "all", "-n", 3, "--steps", 2)
    code, out, err = zsem(*args, "--out", tmp_path, "--method", method, "--class-prior", 0.5, "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert (figures["method"], figures["positive"], figures["unlabelled"]) == (method, 12, 40)
    assert figures["class_prior"] == (None if method == "naive" else 0.5)
    assert 0 < figures["acceptance"] < 1 and len(list((tmp_path / "images").iterdir())) == 3


def test_the_surest_draw_becomes_another_image(zsem, run, data, tmp_path):
    args = ("fewshot", run, "--positive", data / "light", "--negative", data / "dark", "-n", 1, "--steps", 2)
    made = set()
    for surest in (1, 20):
        code, out, err = zsem(*args, "--surest", surest, "--class-prior", 0.5, "--out", tmp_path / "made", "--json")
        assert code == 0, err
        assert json.loads(out)["surest"] == surest
        made.add((tmp_path / "made" / "sample.png").read_bytes())
    assert len(made) == 2


def test_by_default_it_lies_in_the_run_and_needs_a_prior(zsem, run, data, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    args = ("fewshot", mine, "--positive", data / "light", "--negative", data / "dark", "-n", 2, "--steps", 2)
    code, out, err = zsem(*args)
    assert code == 0, err
    assert f"2 images in {mine / 'fewshot' / 'images'}" in out
    shutil.rmtree(mine / "prior")
    code, _, err = zsem(*args)
    assert code == 2 and "holds no prior to draw codes from" in err


def test_what_cannot_be_asked(zsem, run, data):
    base = ("fewshot", run, "--positive", data / "light")
    both = ("--negative", data / "dark", "--unlabelled", data / "all")
    for more, said in (
        ((), "give either --negative DIR or --unlabelled DIR"),
        (both, "give either --negative DIR or --unlabelled DIR"),
        (("--negative", data / "dark", "--method", "nnpu"), "a way to learn from --unlabelled images"),
        (("--negative", data / "dark", "--surest", 0), "--surest must be at least 1"),
        (("--negative", data / "dark", "--class-prior", 1.2), "between 0 and 1, not 1.2"),
        (("--negative", data / "dark" / "00.png"), "at least 2 negative images, not 1"),
        (("--negative", data / "nowhere"), "nowhere"),
    ):
        code, out, err = zsem(*base, *more)
        assert code == 2 and said in err and not out
    code, _, err = zsem("fewshot", "owner/name", "--positive", data / "light", "--negative", data / "dark")
    assert code == 2 and "name one with --out" in err
