import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zsem.semantics.probes import (
    Probe,
    auroc,
    group_numbers,
    in_row_space,
    is_binary,
    judge_scores,
    pca_baseline,
    probe_attributes,
    r2,
    shuffled,
)
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

DISTANCE = 1.5  # of the two kinds' means in standard deviations: AUROC of the best classifier is Phi(d / sqrt 2)
BEST = float(norm.cdf(DISTANCE / math.sqrt(2)))


def planted(number: int, seed: int, dims: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Normal codes in skewed units whose mean depends on a 0/1 label, along one direction of all dimensions."""
    rng = generator(seed)
    labels = (rng.random(number) < 0.3).astype(float)
    codes = rng.standard_normal((number, dims)) + DISTANCE / math.sqrt(dims) * labels[:, None]
    return codes * np.logspace(-2, 2, dims) + 5, labels


def test_a_planted_attribute_is_read_as_well_as_it_can_be():
    codes, labels = planted(4000, 0)
    test_codes, test_labels = planted(3000, 1)
    figures = Probe().fit(codes, labels).judge(test_codes, test_labels, resamples=300)
    assert figures.measure == "auroc" and figures.n == 3000
    assert figures.score == pytest.approx(BEST, abs=0.015)
    assert figures.low < BEST < figures.high
    # Hanley and McNeil 1982, eq. 1
    positive, q1, q2 = test_labels.sum(), BEST / (2 - BEST), 2 * BEST**2 / (1 + BEST)
    negative = 3000 - positive
    variance = BEST * (1 - BEST) + (positive - 1) * (q1 - BEST**2) + (negative - 1) * (q2 - BEST**2)
    width = 2 * 1.96 * math.sqrt(variance / positive / negative)
    assert figures.high - figures.low == pytest.approx(width, rel=0.2)
    assert figures.p == pytest.approx(1 / 301)


def test_nothing_is_read_off_codes_without_the_attribute():
    labels, test_labels = planted(1000, 2)[1], planted(1000, 3)[1]
    noise = generator(4).standard_normal((2, 1000, 12))
    figures = Probe().fit(noise[0], labels).judge(noise[1], test_labels, resamples=300)
    assert figures.low < 0.5 < figures.high and figures.p > 0.05


def test_p_values_of_scores_without_relation_are_uniform():
    values = []
    for seed in range(100):
        rng = generator(5, seed)
        values.append(judge_scores(rng.random(60), np.arange(60) % 2, True, resamples=99, seed=seed).p)
    for level in (0.1, 0.5, 0.9):
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=0.12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        rng = generator(6, seed)
        labels = (rng.random(150) < 0.5).astype(float)
        figures = judge_scores(rng.standard_normal(150) + DISTANCE * labels, labels, True, resamples=100, seed=seed)
        covered += figures.low <= BEST <= figures.high
    assert 85 <= covered <= 99


def test_measures_agree_with_scikit_learn_ties_and_weights_included():
    rng = generator(7)
    for _ in range(50):
        scores, weights = rng.integers(0, 6, 40) / 4, rng.integers(0, 3, 40).astype(float)
        labels = rng.integers(0, 2, 40).astype(float)
        labels[:2], weights[:2] = (0, 1), 1
        assert auroc(scores, labels, weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
        values = scores + rng.standard_normal(40)
        assert r2(scores, values, weights) == pytest.approx(r2_score(values, scores, sample_weight=weights))
    assert math.isnan(auroc(np.arange(3.0), np.ones(3))) and math.isnan(r2(np.arange(3.0), np.ones(3)))


def test_a_fixed_penalty_gives_scikit_learns_own_pipeline():
    codes, labels = planted(300, 8)
    ours = Probe(C=0.1).fit(codes, labels)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(codes, labels)
    np.testing.assert_allclose(ours.decision_function(codes), theirs.decision_function(codes), atol=1e-9)
    np.testing.assert_allclose(ours.predict(codes), theirs.predict_proba(codes)[:, 1], atol=1e-9)


def test_the_units_of_codes_do_not_matter():
    codes, labels = planted(300, 9)
    codes[:, 3] = 2.0  # a constant is of no use and does no harm
    moved = 3 * codes - 7
    plain, other = Probe().fit(codes, labels), Probe().fit(moved, labels)
    np.testing.assert_allclose(plain.decision_function(codes), other.decision_function(moved), atol=1e-6)


def test_cross_validation_penalises_what_would_overfit():
    codes, labels = planted(60, 10, dims=50)
    test_codes, test_labels = planted(2000, 11, dims=50)
    chosen, loose = Probe().fit(codes, labels), Probe(C=1e6).fit(codes, labels)
    assert chosen.penalty_ < 1
    likelihood = [np.log(np.abs(1 - test_labels - p.predict(test_codes)) + 1e-12).mean() for p in (chosen, loose)]
    assert likelihood[0] > likelihood[1]


def test_real_values_are_read_by_ridge():
    codes, _ = planted(2000, 12)
    standard = (codes - codes.mean(0)) / codes.std(0)
    labels = 40 + standard @ np.linspace(-1, 1, 12) + generator(13).standard_normal(2000)
    probe = Probe().fit(codes[:1000], labels[:1000])
    figures = probe.judge(codes[1000:], labels[1000:], resamples=200)
    signal = (np.linspace(-1, 1, 12) @ np.cov(standard.T)) @ np.linspace(-1, 1, 12)
    assert figures.measure == "r2" and figures.p == pytest.approx(1 / 201)
    assert figures.low < signal / (signal + 1) < figures.high
    theirs = make_pipeline(StandardScaler(), Ridge(probe.penalty_)).fit(codes[:1000], labels[:1000])
    np.testing.assert_allclose(probe.predict(codes[1000:]), theirs.predict(codes[1000:]), atol=1e-6)


def test_images_without_a_label_are_left_out():
    codes, labels = planted(400, 14)
    known = generator(15).random(400) < 0.7
    holey = np.where(known, labels, np.nan)
    probe = Probe().fit(codes, holey)
    np.testing.assert_array_equal(probe.coef_, Probe().fit(codes[known], labels[known]).coef_)
    assert probe.judge(codes, holey, resamples=20) == probe.judge(codes[known], labels[known], resamples=20)
    assert is_binary(holey) and not is_binary(np.array([0, 0.5, 1]))


def test_tensors_are_as_good_as_arrays_and_figures_repeat():
    codes, labels = planted(200, 16)
    array = Probe().fit(codes, labels)
    tensor = Probe().fit(torch.from_numpy(codes), torch.from_numpy(labels))
    np.testing.assert_array_equal(array.coef_, tensor.coef_)
    once, again, other = (array.judge(codes, labels, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert once == again and once.low != other.low


def test_a_probe_behaves_like_an_estimator_of_scikit_learn():
    copy = clone(Probe(C=0.5, seed=3))
    assert copy.get_params() == {"C": 0.5, "seed": 3} and not hasattr(copy, "coef_")


def test_the_direction_changes_the_logit_by_its_amount():
    codes, labels = planted(300, 17)
    probe = Probe().fit(codes, labels)
    direction = probe.direction("smile", model="abc")
    batch = torch.from_numpy(codes[:5]).float()
    np.testing.assert_allclose(direction.logit(batch).numpy(), probe.decision_function(codes[:5]), atol=1e-3)
    moved = probe.decision_function(codes[:5] + 2.5 * direction.vector.double().numpy())
    np.testing.assert_allclose(moved - probe.decision_function(codes[:5]), 2.5, atol=1e-5)
    assert (direction.name, direction.unit, direction.space, direction.model) == ("smile", "logit of smile", "z", "abc")


def test_what_cannot_be_learned_or_judged_is_said():
    codes, labels = planted(50, 18)
    with pytest.raises(ZsemError, match="two images with 0 and two with 1"):
        Probe().fit(codes, np.zeros(50))
    with pytest.raises(ZsemError, match="two training images"):
        Probe().fit(codes, np.where(np.arange(50) == 0, 0.5, np.nan))
    with pytest.raises(ZsemError, match="attribute hat: its held-out images all have one label"):
        probe_attributes(codes, {"hat": labels}, codes, {"hat": np.ones(50)})
    with pytest.raises(ZsemError, match="so it has no direction"):
        Probe().fit(np.ones((50, 3)), labels).direction("hat")


def test_principal_components_are_those_of_the_singular_value_decomposition():
    rng = generator(19)
    # clear gaps between singular values, so that components are determined
    basis = np.linalg.qr(rng.standard_normal((48, 5)))[0]
    pixels = 128 + (rng.standard_normal((120, 5)) * [40, 25, 16, 10, 6]) @ basis.T
    pixels = torch.from_numpy(pixels.round().clip(0, 255).astype(np.uint8)).view(120, 3, 4, 4)
    train, test = pca_baseline(pixels[:80], pixels[80:], 3)
    flat = pixels.numpy().reshape(120, -1).astype(float)
    _, _, v = np.linalg.svd(flat[:80] - flat[:80].mean(0), full_matrices=False)
    expected = (flat - flat[:80].mean(0)) @ v[:3].T
    signs = np.sign((expected[:80] * train).sum(0))
    np.testing.assert_allclose(np.concatenate([train, test]) * signs, expected, atol=0.02)
    with pytest.raises(ZsemError, match="81 principal components"):
        pca_baseline(pixels[:80], pixels[80:], 81)


def test_components_may_be_fitted_to_images_without_labels():
    pixels = torch.from_numpy(generator(20).standard_normal((60, 12))).float()
    train, test = pca_baseline(pixels[:5], pixels[5:10], 3, unlabelled=pixels[10:])
    theirs, _ = pca_baseline(pixels[10:], pixels[:10], 3)
    everything = pca_baseline(pixels[10:], pixels[:10], 3)[1]
    np.testing.assert_allclose(np.concatenate([train, test]), everything, atol=1e-5)
    assert theirs.shape == (50, 3)
    with pytest.raises(ZsemError, match="6 principal components"):
        pca_baseline(pixels, pixels, 6, unlabelled=pixels[:5])


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_more_numbers_than_images_change_nothing_but_the_time(C):
    codes = generator(21).standard_normal((60, 200)) * np.logspace(-2, 2, 200) + 5
    labels = (codes[:, 100:110].sum(1) > 50).astype(float)
    ours = Probe(C=C).fit(codes, labels)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000, tol=1e-8)).fit(codes, labels)
    np.testing.assert_allclose(ours.decision_function(codes), theirs.decision_function(codes), rtol=0.01, atol=0.01)
    other = generator(22).standard_normal((20, 200)) * np.logspace(-2, 2, 200) + 5
    np.testing.assert_allclose(ours.decision_function(other), theirs.decision_function(other), rtol=0.01, atol=0.01)
    values = codes[:, 5] / codes[:, 5].std() + generator(23).standard_normal(60)
    ridge = Probe().fit(codes, values)
    theirs = make_pipeline(StandardScaler(), Ridge(ridge.penalty_)).fit(codes, values)
    np.testing.assert_allclose(ridge.predict(other), theirs.predict(other), atol=1e-6)


def test_codes_in_row_space_have_the_same_products():
    x = generator(24).standard_normal((10, 30))
    x[9] = x[8]
    inside, back = in_row_space(x)
    assert inside.shape == (10, 9)
    np.testing.assert_allclose(inside @ inside.T, x @ x.T, atol=1e-10)
    weights = generator(25).standard_normal(9)
    np.testing.assert_allclose(x @ back(weights), inside @ weights, atol=1e-10)
    assert in_row_space(x.T)[0] is not None and in_row_space(x.T)[0].shape == (30, 10)


def clones(patients: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Many nearly equal images of each of few patients, whose labels and codes have nothing to do with each other."""
    rng = generator(seed)
    member = np.repeat(np.arange(patients), images)
    codes = rng.standard_normal((patients, 30))[member] + 0.01 * rng.standard_normal((patients * images, 30))
    return codes, (rng.permutation(patients) % 2).astype(float)[member], [f"p{i}" for i in member]


def test_folds_that_divide_patients_are_fooled_by_their_clones():
    codes, labels, groups = clones(20, 10, 26)
    assert Probe().fit(codes, labels).penalty_ >= 10  # every fold knows every patient
    assert Probe().fit(codes, labels, groups).penalty_ <= 1e-2
    sure = Probe(C=100.0).fit(codes, labels)
    size = np.linalg.norm(sure.coef_)
    assert np.linalg.norm(sure.calibrated(codes, labels).coef_) > 0.3 * size
    within = sure.calibrated(codes, labels, groups)
    assert within is sure or np.linalg.norm(within.coef_) < 0.3 * size
    with pytest.raises(ZsemError, match="from at least two groups each"):
        Probe().fit(codes, labels, ["a" if label else f"b{i}" for i, label in enumerate(labels)])


def test_p_values_of_clones_are_uniform_only_when_groups_are_known():
    known, unknown = [], []
    for seed in range(60):
        rng = generator(27, seed)
        member = np.repeat(np.arange(20), 5)
        scores, labels = rng.standard_normal(20)[member], (rng.permutation(20) % 2).astype(float)[member]
        groups = [str(i) for i in member]
        known.append(judge_scores(scores, labels, True, groups=groups, resamples=99).p)
        unknown.append(judge_scores(scores, labels, True, resamples=99).p)
    assert np.mean(np.array(known) <= 0.1) == pytest.approx(0.1, abs=0.1)
    assert np.mean(np.array(unknown) <= 0.1) > 0.2


def test_shuffled_labels_stay_with_their_groups():
    member = group_numbers(["a", "b", "a", "", "b", "a", ""], np.array([1, 1, 1, 1, 1, 0, 1], dtype=bool))
    np.testing.assert_array_equal(member, [0, 1, 0, 2, 1, 3])
    labels = np.array([10.0, 20, 10, 30, 20, 40])
    orders = {tuple(shuffled(labels, member, generator(28, i))) for i in range(50)}
    assert all(sorted(order) == sorted(labels) for order in orders) and len(orders) > 10
    even = np.array([0, 1, 0, 1])
    for i in range(10):
        order = shuffled(np.array([1.0, 2, 1, 2]), even, generator(29, i))
        assert order[0] == order[2] and order[1] == order[3]
