"""Effects of edits against loops by hand; calibration against frequencies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsem.metrics.editing import Calibration, EditEffect, monotonicity, region
from zsem.values import draws


def test_probabilities_become_frequencies():
    rng = draws.generator(1)
    truth = rng.normal(size=20000)
    labels = (rng.uniform(size=20000) < 1 / (1 + np.exp(-truth))).astype(float)
    logits = torch.from_numpy(np.stack([7 * truth + 3, -0.2 * truth], axis=1))  # too sure and shifted; upside down
    both = torch.from_numpy(np.stack([labels, labels], axis=1))
    probabilities = Calibration().fit(logits, both)(logits)
    for column in range(2):
        for low in np.arange(0.1, 0.9, 0.2):
            inside = (probabilities[:, column] >= low) & (probabilities[:, column] < low + 0.2)
            assert float(both[inside, column].mean()) == pytest.approx(
                float(probabilities[inside, column].mean()), abs=0.03
            )


def test_a_perfect_judge_stays_finite_and_missing_labels_are_left_out():
    logits = torch.tensor([[-3.0], [-2.0], [2.0], [3.0], [-50.0]])
    labels = torch.tensor([[0.0], [0.0], [1.0], [1.0], [torch.nan]])
    probabilities = Calibration().fit(logits, labels)(logits)
    assert bool(((probabilities[:4] > 0.1) & (probabilities[:4] < 0.9)).all())  # four labels do not make it sure
    with pytest.raises(ValueError, match="both kinds"):
        Calibration().fit(logits[:2], labels[:2])


def random_edits(seed, n=6, attributes=3):
    rng = torch.Generator().manual_seed(seed)
    before, after = (torch.rand(n, attributes, generator=rng) for _ in range(2))
    images = tuple(torch.rand(n, 1, 4, 4, generator=rng) * 2 - 1 for _ in range(3))
    images[2][:, :, :2] = images[0][:, :, :2]  # the truth differs below alone
    images[2][:, :, 2:] = images[0][:, :, 2:] - images[0][:, :, 2:].sign()
    return before, after, torch.rand(n, generator=rng), images


def test_figures_are_those_of_a_loop():
    before, after, requested, (was, edited, truth) = random_edits(0)
    effect = EditEffect(["a", "b", "c"], "b")
    effect.update(before, after, requested, images=(was, edited), truth=truth)
    figures = effect.compute()
    rows = range(len(before))
    own = [float(after[i, 1] - before[i, 1]) for i in rows]
    assert figures.change == pytest.approx(np.mean([d if requested[i] > 0.5 else -d for i, d in enumerate(own)]))
    assert figures.before == np.mean([bool(before[i, 1] > 0.5) == bool(requested[i] > 0.5) for i in rows])
    assert figures.hit == np.mean([bool(after[i, 1] > 0.5) == bool(requested[i] > 0.5) for i in rows])
    others = sum(abs(float(after[i, j] - before[i, j])) for i in rows for j in (0, 2))
    assert figures.change > 0 and figures.leakage == pytest.approx(others / (len(own) * figures.change))
    gaps = sorted(abs(float(after[i, 1] - requested[i])) for i in rows)
    assert figures.requested == pytest.approx(gaps[2])  # the lower of the two in the middle
    errors = [float(((edited[i] - truth[i]) / 2).double().square().mean()) for i in rows]
    plain = [float(((was[i] - truth[i]) / 2).double().square().mean()) for i in rows]
    assert (figures.error, figures.unedited) == (pytest.approx(np.mean(errors)), pytest.approx(np.mean(plain)))
    assert figures.nearer == np.mean(np.array(errors) < np.array(plain))
    assert figures.outside == pytest.approx(float(((edited - was)[:, :, :2] / 2).double().square().mean()))


def test_changes_of_what_excludes_the_target_are_no_leakage():
    before, after, requested, _ = random_edits(0)
    effect = EditEffect(["a", "b", "c"], "b", exclusive=["b", "c"])
    effect.update(before, after, requested)
    figures = effect.compute()
    assert figures.leakage == pytest.approx(float((after - before)[:, 0].abs().mean()) / figures.change)


def test_intervals_lie_around_the_figures_and_tell_how_sure_they_are():
    rng = draws.generator(3)
    few, many = (EditEffect(["a", "b"], "a") for _ in range(2))
    for effect, n in ((few, 25), (many, 2500)):
        before = torch.from_numpy(rng.uniform(0, 0.4, (n, 2)))
        after = before + torch.from_numpy(np.stack([rng.uniform(0, 0.6, n), rng.uniform(-0.1, 0.1, n)], axis=1))
        effect.update(before.float(), after.float(), torch.full((n,), 0.9))
    figures, intervals, wide = many.compute(), many.intervals(resamples=200), few.intervals(resamples=200)
    assert set(intervals) == {"change", "hit", "before", "leakage"}
    for name, ends in intervals.items():
        assert ends.low <= getattr(figures, name) <= ends.high
        assert ends.high - ends.low < wide[name].high - wide[name].low
    # of independent changes, uniform on an interval of 0.6
    spread = 2 * 1.96 * 0.6 / 12**0.5 / 2500**0.5
    assert intervals["change"].high - intervals["change"].low == pytest.approx(spread, rel=0.2)
    still = EditEffect(["a", "b"], "a")
    still.update(before.float(), before.float(), torch.full((n,), 0.9))
    assert "leakage" not in still.intervals(resamples=20)
    with pytest.raises(ValueError, match="no edits"):
        EditEffect(["a"], "a").intervals()


def test_changes_to_and_fro_are_no_success_that_leakage_is_divided_by():
    before = torch.full((2, 2), 0.5)
    effect = EditEffect(["a", "b"], "a")
    effect.update(before, before + torch.tensor([[0.4, 0.1], [-0.4, 0.1]]), torch.tensor([0.9, 0.9]))
    assert effect.compute().leakage is None
    effect.update(before, before + torch.tensor([[0.4, 0.1], [0.4, -0.1]]), torch.tensor([0.9, 0.9]))
    assert effect.compute().leakage == pytest.approx(0.4 / 0.8)


def test_the_region_begins_at_one_grey_level():
    levels = torch.arange(255, dtype=torch.uint8)[None, None, None]
    was, wanted = (2 * part.float() / 255 - 1 for part in (levels, levels + 1))  # as stored pixels are normalised
    assert region(*((part.double() + 1) / 2 for part in (was, wanted))).all()
    assert not region(was.double(), was.double()).any()


def test_without_counterfactuals_their_figures_are_missing():
    before, after, requested, _ = random_edits(0)
    effect = EditEffect(["a", "b", "c"], "a")
    with pytest.raises(ValueError, match="no edits"):
        effect.compute()
    effect.update(before, after, requested)
    figures = effect.compute()
    assert figures.error is figures.unedited is figures.outside is figures.nearer is None


@given(st.integers(0, 50), st.integers(1, 5))
def test_parts_merge_to_the_whole(seed, cut):
    before, after, requested, (was, edited, truth) = random_edits(seed)
    whole, first, second = (EditEffect(["a", "b", "c"], "c") for _ in range(3))
    whole.update(before, after, requested, images=(was, edited), truth=truth)
    for part, rows in ((first, slice(None, cut)), (second, slice(cut, None))):
        part.update(before[rows], after[rows], requested[rows], images=(was[rows], edited[rows]), truth=truth[rows])
    first.merge(second)
    assert first.compute() == whole.compute()


def test_monotonicity_is_of_ranks():
    rows = torch.tensor([[0.1, 0.2, 0.9, 0.91], [0.9, 0.5, 0.4, 0.1], [0.3, 0.3, 0.3, 0.3]])
    assert monotonicity(rows[:1]) == pytest.approx(1)
    assert monotonicity(rows[1:2]) == pytest.approx(-1)
    assert monotonicity(rows) == pytest.approx(0)
