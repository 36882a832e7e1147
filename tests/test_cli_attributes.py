"""`zsem attributes` and `zsem directions`, on a small model and small faces, discs and digits."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.cli import main
from zsem.data.builtin import avatars, digits
from zsem.data.labels import TABLE
from zsem.evaluation.bench_edit import EditBench
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.vae import VariationalAutoencoder
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.vae import Decoder
from zsem.semantics.attributes import Semantics
from zsem.training import judging
from zsem.values.direction import load_directions

QUICK = ("--resamples", "20")
KEYS = {"auroc", "low", "high", "p", "pca", "pixels", "vae", "cnn", "n"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return avatars(tmp_path_factory.mktemp("faces") / "set", number=240, size=16, workers=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_model) -> Path:
    """A run folder with a small model."""
    return small_model.save(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def learned(trained, faces) -> Path:
    """The same after `zsem attributes`."""
    copy = trained.parent / "learned"
    shutil.copytree(trained, copy)
    assert main(["attributes", str(copy), str(faces), "--labels", "150", *QUICK]) == 0
    return copy


@pytest.fixture(scope="module")
def two_classes(image_folder, tmp_path_factory) -> Path:
    """Discs in the dark and in the light."""
    data = tmp_path_factory.mktemp("classes") / "data"
    for i, path in enumerate(sorted(image_folder.glob("*.png"))):
        place = "dark" if i % 2 else "light"
        folder = data / ("val" if i % 8 < 4 else "train") / place
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(path).point(lambda v, place=place: v // 4 if place == "dark" else v).save(folder / path.name)
    return data


def test_labels_of_a_table_are_learned_and_kept(learned):
    figures = json.loads((learned / "semantics" / "attributes.json").read_text())
    assert figures["attributes"] and all(set(row) == KEYS for row in figures["attributes"].values())
    assert figures["labels"] == 150 and figures["out"] == str(learned / "semantics")
    assert set(figures["mean"]) == {"z", "pca", "pixels"}
    found = Semantics.load(learned / "semantics", DiffusionAutoencoder.from_pretrained(learned))
    assert set(found.attributes) == set(figures["attributes"]) >= {"glasses", "smile"}


def test_grey_digits_in_class_folders_are_no_special_case(zsem, small_model, tmp_path, monkeypatch):
    torch.manual_seed(0)
    grey = DiffusionAutoencoder(replace(small_model.config, image_channels=1)).save(tmp_path / "grey")
    data = digits(tmp_path / "digits", size=16)
    for folder in data.glob("*/[4-9]"):
        shutil.rmtree(folder)
    code, out, err = zsem("attributes", grey, data, "--labels", 200, "--held-out", 70, *QUICK, "--json")
    assert code == 0, err
    figures = json.loads(out)["attributes"]
    assert list(figures) == [str(i) for i in range(4)]
    assert all(0.9 < row["pixels"] <= 1 for row in figures.values())
    found = Semantics.load(grey / "semantics", DiffusionAutoencoder.from_pretrained(grey))
    assert found["3"].exclusive == tuple(str(i) for i in range(4) if i != 3) and found["3"].choice.lam == 0
    code, out, _ = zsem("directions", grey, "--attribute", "3,1", "--json")
    assert code == 0
    assert [row["leakage"] for row in json.loads(out)["directions"]] == [None, None]
    monkeypatch.setattr(judging, "judge_for", partial(judging.judge_for, iterations=3))
    told, init = [], EditBench.__init__

    def watched(self, *known, **settings):
        told.append(settings["classes"])
        init(self, *known, **settings)

    monkeypatch.setattr(EditBench, "__init__", watched)
    options = ("--attributes", "3", "--number", 2, "--amounts-of", 1, "--labels", 200)
    code, out, err = zsem("bench", "edit", grey, data, *options, "--out", tmp_path / "bench", "--json")
    assert code == 0, err
    assert list(json.loads(out)["attributes"]) == ["3"] and told == [("0", "1", "2", "3")]
    page = (tmp_path / "bench" / "report.html").read_text("utf-8")  # of photographs nobody knows the truth
    assert "edits seen</" in page and "MSE to truth</" not in page
    assert "Originals, and edits of them." in page


def test_a_judge_and_a_vae_are_compared_with(zsem, trained, two_classes, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "judge_for", partial(judging.judge_for, iterations=3))
    torch.manual_seed(0)
    encoder = SemanticEncoder.Config(channels=8, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), pool=1)
    decoder = Decoder.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, embed_channels=16)
    config = VariationalAutoencoder.Config(z_dim=8, image_size=16, encoder=encoder, decoder=decoder)
    vae = VariationalAutoencoder(config).save(tmp_path / "vae")
    args = ("--vae", vae, "--judge", tmp_path / "judge", "--out", tmp_path / "sem", *QUICK, "--json")
    code, out, err = zsem("attributes", trained, two_classes, *args)
    assert code == 0, err
    light = json.loads(out)["attributes"]["light"]
    assert 0 <= light["vae"] <= 1 and 0 <= light["cnn"] <= 1
    assert json.loads((tmp_path / "sem" / "attributes.json").read_text()) == json.loads(out)
    assert (tmp_path / "judge" / "config.json").exists() and not (trained / "semantics").exists()
    code, _, err = zsem("attributes", trained, two_classes, "--vae", trained, "--out", tmp_path / "other")
    assert code == 2 and "VariationalAutoencoder is wanted" in err


def test_celebas_annotations_and_two_classes(zsem, trained, two_classes, tmp_path):
    names = sorted(path.stem for path in two_classes.rglob("*.png"))
    rows = [f"{name}.jpg {1 if i % 3 else -1}" for i, name in enumerate(names)]
    listed = tmp_path / "mine.txt"
    listed.write_text("\n".join([str(len(names)), "Odd", *rows]))
    args = ("attributes", trained, two_classes, "--out", tmp_path / "sem", *QUICK)
    code, out, err = zsem(*args, "--annotations", listed, "--json")
    assert code == 0, err
    assert set(json.loads(out)["attributes"]) == {"Odd", "light"}
    code, out, _ = zsem(*args)
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0] == ["attribute", "z", "95", "%", "interval", "p", "PCA", "pixels", "VAE", "CNN", "n"]
    assert [line[0] for line in lines[2:4]] == ["light", "mean"]
    assert out.rstrip().endswith(f"learned: {tmp_path / 'sem'}")
    code, _, err = zsem(*args, "--annotations", tmp_path / "none.txt")
    assert code == 2 and "none.txt cannot be read" in err


def test_groups_and_blanks_of_a_table(zsem, trained, image_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(image_folder, data)
    rows = [f"{i:02d}.png,{'' if i % 5 == 0 else i % 2},{i * 1.5},p{i // 2}" for i in range(40)]
    (data / TABLE).write_text("\n".join(["path,odd,size,group", *rows]))
    code, out, err = zsem("attributes", trained, data, "--out", tmp_path / "sem", *QUICK, "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["groups"] is True
    assert "r2" in figures["attributes"]["size"]
    assert figures["attributes"]["odd"]["n"] < figures["attributes"]["size"]["n"] == figures["held_out"]


@pytest.mark.parametrize("method", ["logistic", "mean", "constrained"])
def test_directions_of_attributes_are_files(zsem, learned, method, tmp_path):
    model = DiffusionAutoencoder.from_pretrained(learned)
    semantics = Semantics.load(learned / "semantics", model)
    args = ("directions", learned, "--method", method, "--out", tmp_path, "--json")
    code, out, err = zsem(*args, "--attribute", "glasses,beard", "--keep", "hat")
    assert code == 0, err
    figures = json.loads(out)
    assert [row["name"] for row in figures["directions"]] == ["glasses", "beard"]
    first = figures["directions"][0]
    (direction,) = load_directions(tmp_path / first["file"])
    expected = semantics.direction("glasses", method, ["hat"])
    torch.testing.assert_close(direction.vector, expected.vector)
    assert (direction.model, direction.unit, first["unit"]) == (model.stamp, "logit of glasses", "logit of glasses")
    assert first["sigma"] == pytest.approx(semantics.sigma(expected), rel=1e-5)
    assert first["leakage"] is None
    code, out, _ = zsem(*args)
    everything = json.loads(out)["directions"]
    assert [row["leakage"] for row in everything] == [semantics.leakage(name, method) for name in semantics.attributes]


def test_components_need_no_labels(zsem, trained, image_folder, tmp_path):
    code, out, err = zsem("directions", trained, image_folder, "--method", "pca", "--components", 3, "--out", tmp_path)
    assert code == 0, err
    assert "pca_2" in out and "standard deviation" in out
    (first,) = load_directions(tmp_path / "pca_0.safetensors")
    code, out, _ = zsem("directions", trained, "--method", "sefa", "--components", 2, "--out", tmp_path, "--json")
    assert code == 0
    assert [row["sigma"] for row in json.loads(out)["directions"]] == [None, None]
    code, out, _ = zsem(
        "directions", trained, image_folder, "--method", "sefa", "--components", 1, "--out", tmp_path, "--json"
    )
    assert json.loads(out)["directions"][0]["sigma"] > 0
    assert np.isfinite(first.vector.numpy()).all() and first.space == "z"


def test_directions_of_other_images(zsem, trained, faces, tmp_path):
    code, out, err = zsem(
        "directions", trained, faces, "--attribute", "glasses", "--out", tmp_path / "d", "--limit", 150
    )
    assert code == 0, err
    assert "glasses-constrained.safetensors" in out and not (trained / "semantics").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("directions", "RUN"), "holds no attributes: learn them with `zsem attributes RUN DATA`"),
        (("directions", "RUN", "--method", "pca"), "pca looks at codes of images: name DATA after RUN"),
        (("directions", "RUN", "--method", "sefa", "--keep", "a"), "--keep is for directions of attributes"),
        (("directions", "RUN", "--method", "sefa", "--components", "99"), "there are 8 components here, not 99"),
        (("directions", "RUN", "--method", "pca", "IMAGES", "--limit", "0"), "--limit must be at least 4, not 0"),
        (("attributes", "RUN", "IMAGES"), "has no labels: put a table attributes.csv beside the images"),
        (("attributes", "RUN", "IMAGES", "--labels", "1"), "--labels must be at least 4, not 1"),
        (("attributes", "someone/model", "IMAGES"), "someone/model is no folder here to write to"),
    ],
)
def test_what_cannot_be_is_one_sentence(zsem, trained, image_folder, args, message):
    places = {"RUN": trained, "IMAGES": image_folder}
    code, out, err = zsem(*(places.get(word, word) for word in args))
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


def test_an_unknown_attribute_is_guessed(zsem, learned):
    code, _, err = zsem("directions", learned, "--attribute", "glases")
    assert code == 2 and "did you mean glasses?" in err


def test_info_names_what_was_learned(zsem, learned):
    code, out, _ = zsem("info", learned, "--json")
    assert code == 0 and "glasses" in json.loads(out)["attributes"]
