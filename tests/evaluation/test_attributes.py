"""Attributes of small discs, judged from a small untrained encoder: every source, end to end."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zsem.evaluation.attributes import judge_attributes, labelled_part, learnable, mean_scores, small_pixels
from zsem.models.judge import Judge
from zsem.models.vae import VariationalAutoencoder
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.vae import Decoder
from zsem.semantics.attributes import Semantics
from zsem.semantics.probes import Probe
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

ENCODER = SemanticEncoder.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool=2)


def quiet(line: str) -> None:
    """The judgement says how far it is; here nobody listens."""


@pytest.fixture(scope="module")
def others() -> tuple[VariationalAutoencoder, Judge]:
    """An untrained VAE and judge."""
    torch.manual_seed(0)
    decoder = Decoder.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, embed_channels=16)
    vae = VariationalAutoencoder.Config(z_dim=8, image_size=16, encoder=ENCODER, decoder=decoder)
    judge = Judge.Config(attributes=("red",), image_size=16, net=ENCODER)
    return VariationalAutoencoder(vae).eval(), Judge(judge).eval()


@pytest.fixture(scope="module")
def judged(small_model, labelled_discs, others):
    vae, judge = others
    return judge_attributes(
        small_model, labelled_discs, vae=vae, judge=judge, labels=300, held_out=80, resamples=50, say=quiet
    )


def test_the_figures_are_those_of_scikit_learn(judged, small_model, labelled_discs, others):
    train = labelled_part(labelled_discs.split("train")).limit(300)
    test = labelled_part(labelled_discs.held_out()).limit(80)
    assert (judged.labels, judged.held_out) == (len(train), len(test)) == (300, 80)
    known, there = (~np.isnan(part.attributes["red"]) for part in (train, test))
    truth = test.attributes["red"][there]
    row = judged.attributes["red"]
    assert row.z.n == there.sum() < 80
    pixels = [part.pixels.flatten(1).float().numpy() for part in (train, test)]
    chosen = Probe().fit(pixels[0], train.attributes["red"]).penalty_
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=chosen, max_iter=1000)).fit(
        pixels[0][known], train.attributes["red"][known]
    )
    expected = roc_auc_score(truth, theirs.decision_function(pixels[1][there]))
    assert row.pixels.score == pytest.approx(expected, abs=1e-3)
    logits = others[1].logits(test)[:, 0].numpy()[there]
    assert row.cnn.score == pytest.approx(roc_auc_score(truth, logits))
    z = small_model.encode(test, noise=False).z
    value = judged.semantics.score(z, "redness")
    assert judged.attributes["redness"].z.score == pytest.approx(r2_score(test.attributes["redness"], value), abs=1e-4)
    logit = judged.semantics.score(z, "red")[there]
    assert row.z.score == pytest.approx(roc_auc_score(truth, logit))


def test_the_report_has_the_promised_keys(judged):
    figures = json.loads(json.dumps(judged.figures, allow_nan=False))
    red, redness = figures["attributes"]["red"], figures["attributes"]["redness"]
    assert set(red) == {"auroc", "low", "high", "p", "pca", "pixels", "vae", "cnn", "n"}
    assert set(redness) == {"r2", "low", "high", "p", "pca", "pixels", "vae", "cnn", "n"}
    assert redness["cnn"] is None and 0 < red["cnn"] < 1 and red["low"] <= red["auroc"] <= red["high"]
    assert set(figures["intervals"]["red"]) == {"z", "pca", "pixels", "vae", "cnn"}
    assert set(mean_scores(judged.attributes)) == {"z", "pca", "pixels", "vae", "cnn"}
    assert mean_scores(judged.attributes)["z"] == red["auroc"]


def test_what_was_learned_can_be_saved_and_has_the_figures(judged, small_model, tmp_path):
    back = Semantics.load(judged.semantics.save(tmp_path).parent, small_model)
    assert back["red"].figures == judged.attributes["red"].summary()
    assert back.about["labels"] == 300 and back["red"].binary and not back["redness"].binary


def test_what_was_not_asked_for_is_null_and_two_runs_agree(small_model, labelled_discs):
    once, again = (
        judge_attributes(small_model, labelled_discs, labels=100, held_out=50, resamples=20, say=quiet)
        for _ in range(2)
    )
    assert once.figures == again.figures
    red = once.figures["attributes"]["red"]
    assert red["vae"] is None and red["cnn"] is None and set(mean_scores(once.attributes)) == {"z", "pca", "pixels"}


def test_groups_widen_the_interval(small_model, labelled_discs):
    """Of twins a bootstrap that draws pairs knows half as much as one that takes them for strangers."""
    rows = [i for i in range(len(labelled_discs)) for _ in range(2)]
    twins = replace(labelled_discs.subset(rows), groups=[str(i) for i in rows])
    strangers = replace(twins, groups=[])

    def width(images) -> float:
        found = judge_attributes(small_model, images, labels=200, held_out=200, resamples=200, say=quiet)
        assert found.figures["groups"] == bool(images.groups)
        figures = found.attributes["redness"].z
        return figures.high - figures.low

    assert width(twins) == pytest.approx(2**0.5 * width(strangers), rel=0.25)


def test_attributes_without_labels_are_left_out_by_name(small_model, labelled_discs):
    number = len(labelled_discs)
    rare = np.zeros(number, np.float32)
    rare[0] = 1
    unseen = np.full(number, np.nan, np.float32)
    unseen[:100] = generator(40).integers(0, 2, 100)
    images = replace(labelled_discs, attributes={**labelled_discs.attributes, "rare": rare, "unseen": unseen})
    train, test = images.split("train"), images.held_out()
    with pytest.warns(UserWarning, match="the attribute (rare|unseen) is left out") as told:
        assert learnable(train, test) == ["redness", "red"]
    assert len(told) == 2
    with warnings.catch_warnings(), pytest.raises(ZsemError, match="no attribute with enough labels"):
        warnings.simplefilter("ignore")
        judge_attributes(small_model, replace(images, attributes={"rare": rare}), say=quiet)
    with pytest.raises(ZsemError, match="no labels on one side of its split"):
        judge_attributes(small_model, replace(images, attributes={"unseen": unseen}), say=quiet)


def test_attributes_of_a_single_patient_are_left_out(labelled_discs):
    own = np.zeros(len(labelled_discs), np.float32)
    own[[0, 1, 2, -1]] = 1
    images = replace(
        labelled_discs,
        attributes={"own": own, "red": labelled_discs.attributes["red"]},
        groups=["a"] * 3 + [f"p{i}" for i in range(3, len(own))],
    )
    with pytest.warns(UserWarning, match="the attribute own is left out: too few of its images"):
        assert learnable(images.split("train"), images.held_out()) == ["red"]
    apart = replace(images, groups=[])
    assert learnable(apart.split("train"), apart.held_out()) == ["own", "red"]


def test_large_images_are_averaged():
    pixels = torch.from_numpy(generator(41).integers(0, 255, (3, 1, 130, 200)).astype(np.uint8))
    found = small_pixels(pixels).view(3, 65, 100)
    torch.testing.assert_close(found[1, 2, 3], pixels[1, 0, 4:6, 6:8].float().mean())
    assert torch.equal(small_pixels(pixels[:, :, :64, :64]), pixels[:, :, :64, :64].flatten(1).float())
