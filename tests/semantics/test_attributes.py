"""Attributes learned from simulated codes whose truth is known."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.semantics.attributes import IMPORTED, Semantics, learn
from zsem.semantics.choice import _Half, choose, exclusive_pairs, halves
from zsem.semantics.directions import constrained, lengths
from zsem.semantics.probes import Probe
from zsem.values.direction import save_directions
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

DIMS, ATTRIBUTES = 32, 5
NAMES = tuple("abcde")
PATTERNS = 0.6 * generator(20).standard_normal((ATTRIBUTES, DIMS))
"""What each attribute adds to a code."""


def simulated(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes with correlated attributes (rho = .4) and structured nuisance, and 0/1 labels (frontier.md, 5.2)."""
    rng = generator(seed)
    mixed = np.linalg.cholesky(0.4 + 0.6 * np.eye(ATTRIBUTES))
    labels = (rng.standard_normal((number, ATTRIBUTES)) @ mixed.T > 0).astype(float)
    nuisance = generator(21).standard_normal((DIMS, DIMS)) * np.logspace(-0.5, -2, DIMS)
    codes = (labels - 0.5) @ PATTERNS + rng.standard_normal((number, DIMS)) @ nuisance
    return codes + 0.15 * rng.standard_normal((number, DIMS)), labels


def model_for(codes: np.ndarray, small_model: DiffusionAutoencoder) -> DiffusionAutoencoder:
    """A model whose statistics of z are those of the codes."""
    model = DiffusionAutoencoder(replace(small_model.config, z_dim=codes.shape[1]))
    model.z_mean.copy_(torch.from_numpy(codes.mean(0)))
    model.z_std.copy_(torch.from_numpy(codes.std(0)))
    return model


@pytest.fixture(scope="module")
def codes_and_labels() -> tuple[np.ndarray, np.ndarray]:
    return simulated(600, 22)


@pytest.fixture(scope="module")
def model(codes_and_labels, small_model) -> DiffusionAutoencoder:
    return model_for(codes_and_labels[0], small_model)


@pytest.fixture(scope="module")
def semantics(codes_and_labels, model) -> Semantics:
    codes, labels = codes_and_labels
    return learn(codes, dict(zip(NAMES, labels.T, strict=True)), model, about={"data": "simulated"})


@pytest.fixture
def z(codes_and_labels) -> torch.Tensor:
    return torch.from_numpy(codes_and_labels[0][:6]).float()


def true_change(semantics: Semantics, name: str, method: str) -> tuple[float, float]:
    """What the direction truly does: change of other attributes, and of the rest of the code, per change of its own.

    A code is sum_k a_k PATTERNS_k + nuisance, so that the amounts a of a step are its least-squares fit.
    """
    step = semantics.direction(name, method).vector.double().numpy() * semantics.std.double().numpy()
    amounts = np.linalg.lstsq(PATTERNS.T, step, rcond=None)[0]
    own = amounts[NAMES.index(name)]
    others = np.delete(amounts, NAMES.index(name))
    return float(np.abs(others).sum() / own), float(np.linalg.norm(step - PATTERNS.T @ amounts) / own)


def test_the_chosen_direction_leaks_less_than_the_papers_and_strays_less(semantics):
    seen = {
        method: np.mean([true_change(semantics, name, method) for name in NAMES], axis=0)
        for method in ("constrained", "logistic", "mean")
    }
    assert seen["constrained"][0] < 0.5 * seen["logistic"][0]
    assert seen["constrained"][0] < 0.2 * seen["mean"][0]
    assert seen["constrained"][1] < 0.5 * seen["logistic"][1]
    for name in NAMES:
        ours, theirs = (semantics.direction(name, method) for method in ("constrained", "logistic"))
        assert semantics.leakage(name) < 0.5 * semantics.leakage(name, "logistic") and semantics.sigma(
            ours
        ) < semantics.sigma(theirs)
        choice = semantics[name].choice
        assert choice.lam > 0 and choice.g < 1 and choice.success == pytest.approx(1, abs=0.3)


def test_mutually_exclusive_attributes_are_not_held_still(semantics):
    number = generator(23).integers(0, 3, 300)
    classes = {name: (number == i).astype(float) for i, name in enumerate(("x", "y", "z"))}
    free = generator(24).integers(0, 2, 300).astype(float)
    real = generator(25).standard_normal(300)
    found = exclusive_pairs({**classes, "free": free, "real": real})
    assert found == {"x": ("y", "z"), "y": ("x", "z"), "z": ("x", "y"), "free": (), "real": ()}
    few = {name: values[:12] for name, values in classes.items()}  # too few to tell
    assert exclusive_pairs(few)["x"] == () and exclusive_pairs(few, classes)["x"] == ("y", "z")
    assert all(a.exclusive == () for a in semantics.attributes.values())

    codes = np.eye(3)[number] @ generator(26).standard_normal((3, 8)) + 0.3 * generator(27).standard_normal((300, 8))
    chosen = choose(codes, classes, {n: Probe().fit(codes, v) for n, v in classes.items()}, found)
    assert all(choice.lam == 0 and choice.leakage is None for choice in chosen.values())


def test_moves_reach_all_targets_together_and_keep_the_rest(semantics, z):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of them are far
        moved = semantics.move(z, {"a": 0.9, "b": 0.25}, keep=("c", "d", "c"), exact=True)
        lone = {
            method: semantics.move(z, {"a": 0.7}, method=method, exact=True)
            for method in ("constrained", "logistic", "mean")
        }
        kept = {m: semantics.move(z, {"a": 0.7, "b": 0.7}, keep=["c"], method=m, exact=True) for m in lone}
    np.testing.assert_allclose(semantics.score(moved, "a"), 0.9, atol=1e-4)
    np.testing.assert_allclose(semantics.score(moved, "b"), 0.25, atol=1e-4)
    for name in ("c", "d"):
        np.testing.assert_allclose(semantics.score(moved, name), semantics.score(z, name), atol=1e-4)
    assert moved.dtype == z.dtype and moved.shape == z.shape
    for method, found in lone.items():
        np.testing.assert_allclose(semantics.score(found, "a"), 0.7, atol=1e-4)
        # the same step as the direction's, each code by its own amount
        steps = (found - z) / semantics.std
        vector = semantics.direction("a", method).vector
        torch.testing.assert_close(steps, (steps @ vector / (vector @ vector))[:, None] * vector, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(semantics.score(kept[method], "b"), 0.7, atol=1e-4)
        np.testing.assert_allclose(semantics.score(kept[method], "c"), semantics.score(z, "c"), atol=1e-4)
    assert semantics.move(z, {}) is z


@pytest.mark.parametrize(("asked", "side"), [(0.7, 1), (0.2, -1)])
def test_what_is_beyond_a_request_stays_where_it_is(semantics, codes_and_labels, asked, side):
    z = torch.from_numpy(codes_and_labels[0][:60]).float()
    before = semantics.score(z, "a")
    beyond = side * (before - asked) >= 0
    assert 5 < beyond.sum() < 55
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved = semantics.move(z, {"a": asked})
        exact = semantics.move(z, {"a": asked}, exact=True)
        both = semantics.move(z, {"a": asked, "b": 0.9})
        middle = semantics.move(z, {"a": 0.5})
    assert torch.equal(moved[beyond], z[beyond])  # to the bit, so that the image is decoded as it was
    assert (side * (semantics.score(moved[~beyond], "a") - asked) > -1e-4).all()
    np.testing.assert_allclose(semantics.score(exact, "a"), asked, atol=1e-4)
    # other requests do not move it either
    np.testing.assert_allclose(semantics.score(both[beyond], "a"), before[beyond], atol=1e-4)
    assert (semantics.score(both, "b") > 0.9 - 1e-4).all()
    np.testing.assert_allclose(semantics.score(middle, "a"), 0.5, atol=1e-4)


@pytest.mark.parametrize("side", [1, -1])
def test_a_flip_ends_half_a_gap_beyond_what_the_other_kind_looks_like(semantics, side):
    centres = semantics["a"].centres
    assert centres is not None
    z = (centres * semantics.std + semantics.mean).float()
    other, kind = z[[0]] if side > 0 else z[[1]], z[[1]] if side > 0 else z[[0]]

    def logit(codes: torch.Tensor) -> float:
        p = float(semantics.score(codes, "a")[0])
        return math.log(p / (1 - p))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flipped = semantics.move(other, {"a": 0.5 + 0.4 * side})
    doubt = 0.5 * (1 + math.tanh(side * logit(other) / -2))
    assert 0.5 < doubt < 1  # the centre itself is where it is taken to be, whatever the doubt
    goal = logit(kind) + (logit(kind) - logit(other)) / 2
    assert side * goal > math.log(9)
    assert logit(flipped) == pytest.approx(goal, abs=1e-2)

    # what the probe cannot tell is taken to be half-way back to the other kind
    undecided = other + (kind - other) * (logit(other) / (logit(other) - logit(kind)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = logit(semantics.move(undecided, {"a": 0.5 + 0.4 * side}))
        hardly = logit(semantics.move(undecided, {"a": 0.5 + 0.01 * side}))
        sure = logit(semantics.move(other, {"a": float(side > 0)}))
    assert found == pytest.approx(goal - logit(other) / 2, abs=2e-2)
    assert 0 < side * hardly < 0.1 * side * goal  # a small request is a small step
    assert side * sure == pytest.approx(max(side * goal, math.log(999)), abs=2e-2)  # certainty is no further away


def test_the_constrained_direction_is_that_of_the_closed_form(semantics):
    own = semantics["b"]
    others = np.stack([semantics[name].probe.gradient.numpy() for name in NAMES if name != "b"])
    square = semantics.covariance.double().numpy()
    expected = constrained(own.probe, square, others, g=own.choice.g, lam=own.choice.lam)
    torch.testing.assert_close(semantics.direction("b").vector, expected.vector)
    assert semantics.direction("b", keep=["c"]).vector.double() @ semantics["c"].probe.gradient == pytest.approx(
        0, abs=1e-6
    )
    logistic = semantics.direction("b", "logistic")
    assert logistic.slope is not None and logistic.unit == semantics.direction("b").unit == "logit of b"


def test_steps_of_more_than_three_sigma_are_told_and_only_shortened_on_demand(semantics, z):
    with pytest.warns(UserWarning, match=r"takes \d of 6 codes further than 3 sigma .* ask for less, or clamp"):
        far = semantics.move(z, dict.fromkeys(NAMES, 0.999))
    assert (semantics.score(far, "a") > 0.999 - 1e-4).all()
    with pytest.warns(UserWarning, match="shortened to three"):
        clamped = semantics.move(z, dict.fromkeys(NAMES, 0.999), clamp=True)
    sigma = lengths(((clamped - z) / semantics.std).double().numpy(), semantics.covariance.double().numpy())
    assert sigma.max() == pytest.approx(3, abs=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(semantics.move(z, dict.fromkeys(NAMES, 0.999), quiet=True), far)
        p = float(semantics.score(z[:1], "a")[0])
        near = semantics.move(z[:1], {"a": 0.9 * p + 0.05}, exact=True)
    assert float((near - z[:1]).norm()) > 0


def test_certainty_is_taken_as_nearly_certain(semantics, z):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(semantics.move(z, {"a": 1}), semantics.move(z, {"a": 0.999}))
    for wrong in (1.5, -0.1):
        with pytest.raises(ZsemError, match="which is no probability"):
            semantics.move(z, {"a": wrong})
    with pytest.raises(ZsemError, match="changed and kept at once"):
        semantics.move(z, {"a": 0.5}, keep=["a"])
    with pytest.raises(ZsemError, match="no attribute 'aa' was learned for this model: did you mean a"):
        semantics.direction("aa")


def test_real_values_are_moved_to_themselves(small_model):
    rng = generator(28)
    age = 40 + 10 * rng.standard_normal(400)
    codes = rng.standard_normal((400, DIMS))
    codes[:, 0] += (age - 40) / 10
    smile = (codes[:, 1] + 0.5 * rng.standard_normal(400) > 0).astype(float)
    age[::7] = np.nan
    found = learn(codes, {"age": age, "smile": smile}, model_for(codes, small_model))
    z = torch.from_numpy(codes[:4]).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved = found.move(z, {"age": 50, "smile": 0.5})
    np.testing.assert_allclose(found.score(moved, "age"), 50, atol=1e-3)
    np.testing.assert_allclose(found.score(moved, "smile"), 0.5, atol=1e-4)
    assert not found["age"].binary and found["age"].scale == pytest.approx(np.nanstd(age))
    assert found.direction("age").unit == "unit of age"


def test_the_unit_of_real_values_does_not_matter(small_model):
    rng = generator(33)
    age = rng.standard_normal(200)
    codes = rng.standard_normal((200, 12))
    codes[:, :2] += age[:, None]
    smile = (codes[:, 1] + rng.standard_normal(200) > 0).astype(float)
    model = model_for(codes, small_model)
    years, days = (learn(codes, {"age": factor * age, "smile": smile}, model) for factor in (1, 365))
    torch.testing.assert_close(years.direction("smile").vector, days.direction("smile").vector)
    torch.testing.assert_close(years.direction("age").vector, 365 * days.direction("age").vector)
    assert years.leakage("smile") == pytest.approx(days.leakage("smile"))


def test_logits_are_calibrated_on_images_that_the_probe_has_not_seen(small_model):
    weight = 0.25 * generator(29).standard_normal(64)
    x = generator(30).standard_normal((4400, 64))
    y = (generator(31).random(4400) < 1 / (1 + np.exp(-x @ weight))).astype(float)

    def slope(probe: Probe) -> float:
        """Of the true logit on the probe's: 1 where it is as sure as it should be."""
        logits = probe.decision_function(x[400:])[:, None]
        return float(LogisticRegression(C=1e6).fit(logits, y[400:]).coef_[0, 0])

    too_sure, too_shy = (Probe(C=c).fit(x[:400], y[:400]) for c in (100.0, 1e-3))
    assert slope(too_sure) < 0.7 and slope(too_shy) > 2
    for probe in (too_sure, too_shy):
        assert slope(probe.calibrated(x[:400], y[:400])) == pytest.approx(1, abs=0.25)
    found = learn(x[:400], {"smile": y[:400]}, model_for(x[:400], small_model))
    score = found.score(torch.from_numpy(x[400:]), "smile")
    for low in (0.05, 0.35, 0.65):
        some = (score > low) & (score < low + 0.3)
        assert y[400:][some].mean() == pytest.approx(score[some].mean(), abs=0.06)


def test_groups_are_never_divided_in_halves():
    groups = ["", "", *(str(i // 7) for i in range(70)), "", ""]
    first = halves(len(groups), groups, 0)
    assert 20 < first.sum() < 54
    assert all(len({first[i] for i, g in enumerate(groups) if g == name}) == 1 for name in set(groups) - {""})
    assert halves(100, None, 0).sum() == 50 and (halves(100, None, 0) != halves(100, None, 1)).any()


def test_independent_probes_of_real_values_do_not_divide_groups():
    """Many pictures of few patients: left out one by one, the others of a patient tell its label."""
    rng = generator(40)
    codes = np.repeat(rng.standard_normal((16, 30)), 12, axis=0) + 1e-3 * rng.standard_normal((192, 30))
    age, groups = np.repeat(rng.standard_normal(16), 12), [str(i // 12) for i in range(192)]
    probes = {"age": Probe().fit(codes, age, groups)}
    weights = [_Half(codes, {"age": age}, probes, known).weights["age"] for known in (groups, None)]
    np.testing.assert_allclose(weights[0], probes["age"].coef_ / age.std())
    assert np.linalg.norm(weights[0]) < 0.9 * np.linalg.norm(weights[1])


def test_what_was_learned_comes_back_from_its_file(semantics, model, z, tmp_path):
    with_figures = replace(
        semantics, attributes={n: replace(a, figures={"auroc": 0.9}) for n, a in semantics.attributes.items()}
    )
    path = with_figures.save(tmp_path / "run" / "semantics")
    back = Semantics.load(tmp_path / "run" / "semantics", model)
    assert back.attributes.keys() == semantics.attributes.keys() and back.about == {"data": "simulated"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(back.move(z, {"a": 0.9}, keep=["b"]), semantics.move(z, {"a": 0.9}, keep=["b"]))
    for name, attribute in back.attributes.items():
        assert replace(attribute, probe=semantics[name].probe, centres=None) == replace(
            with_figures[name], centres=None
        )
        assert torch.equal(attribute.centres, semantics[name].centres)
    assert [found.name for found in path.parent.iterdir()] == ["attributes.safetensors"]


def test_files_that_are_not_there_foreign_or_another_models_are_refused(semantics, model, small_model, tmp_path):
    with pytest.raises(ZsemError, match="holds no attributes: learn them with `zsem attributes RUN DATA`"):
        Semantics.load(tmp_path, model)
    path = semantics.save(tmp_path)
    with pytest.raises(ZsemError, match=f"belongs to model {model.stamp}, this is {small_model.stamp}"):
        Semantics.load(tmp_path, small_model)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ZsemError, match="is damaged"):
        Semantics.load(tmp_path, model)
    save_directions(path, [semantics["a"].probe])
    with pytest.raises(ZsemError, match="holds no attributes of zsem"):
        Semantics.load(tmp_path, model)


def test_imported_classifiers_are_moved_by_as_well(semantics, model, z, tmp_path):
    imported = [replace(semantics[name].probe, name=new) for name, new in (("a", "a"), ("b", "Smiling"))]
    file = save_directions(tmp_path / IMPORTED, imported)
    before = file.read_bytes()
    alone = Semantics.load(tmp_path, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(
            alone.score(alone.move(z, {"Smiling": 0.8}, keep=["a"], exact=True), "Smiling"), 0.8, atol=1e-4
        )
    torch.testing.assert_close(alone.direction("a").vector, alone.direction("a", "logistic").vector)
    with pytest.raises(ZsemError, match="Smiling was imported without images"):
        alone.direction("Smiling", "mean")
    with pytest.raises(ZsemError, match="nothing to save"):
        alone.save(tmp_path)
    semantics.save(tmp_path)
    both = Semantics.load(tmp_path, model)
    assert set(both.attributes) == {*NAMES, "Smiling"} and both["a"].centres is not None
    torch.testing.assert_close(both.direction("a").vector, semantics.direction("a").vector)
    both.save(tmp_path)
    assert file.read_bytes() == before and "Smiling" in Semantics.load(tmp_path, model).attributes
    save_directions(file, [replace(imported[0], model="other")])
    with pytest.raises(ZsemError, match="belongs to model other"):
        Semantics.load(tmp_path, model)


def test_too_few_labels_are_named(model, codes_and_labels):
    codes, labels = codes_and_labels
    with pytest.raises(ZsemError, match="attribute hat: a probe needs at least two images with 0"):
        learn(codes, {"a": labels[:, 0], "hat": np.ones(len(codes))}, model)
    rare = np.where(np.arange(len(codes)) < 590, labels[:, 0], np.nan)
    rare[:588] = np.nan
    rare[590:594] = [0, 0, 1, 1]
    found = learn(codes, {"a": labels[:, 0], "rare": rare}, model)
    assert found["rare"].choice.length is None or np.isfinite(found["rare"].choice.length)
    assert np.isfinite(found.direction("rare").vector.numpy()).all()
