"""Averages made after the training, against integrals, closed forms and averages that were tracked directly."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsem import api
from zsem.api.averaging import WIDTHS
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.training import ema, posthoc
from zsem.training.checkpoint import AVERAGE
from zsem.training.posthoc import Source, combination, overlap
from zsem.values.errors import ZsemError

times, exponents = st.floats(0.05, 1.0), st.floats(0.5, 40.0)


@given(times, exponents, times, exponents)
def test_the_overlap_is_the_integral_of_the_product(t_a, gamma_a, t_b, gamma_b):
    end = min(t_a, t_b)
    tau = (np.arange(200_000) + 0.5) / 200_000 * end
    a, b = ((g + 1) / t * (tau / t) ** g for t, g in ((t_a, gamma_a), (t_b, gamma_b)))
    found = overlap(*(np.array([value]) for value in (t_a, gamma_a, t_b, gamma_b)))[0]
    assert found == pytest.approx((a * b).mean() * end, rel=1e-3)


@given(st.integers(1, 100_000), st.integers(1, 20))
def test_snapshots_are_evenly_spaced_and_never_too_many(iteration, keep):
    """Whoever has taken all that were due, and dropped what is too fine now, has between keep/2 and keep."""
    step = posthoc.stride(iteration, keep)
    kept = range(step, iteration + 1, step)
    assert len(kept) <= keep
    assert iteration <= keep or len(kept) >= keep // 2
    assert all(posthoc.due(taken, keep) for taken in kept)


def sources(end, step, widths):
    """Averages of `widths` every `step` iterations and at the end."""
    iterations = [*range(step, end, step), end]
    return [Source(iteration=i, sigma_rel=w, path=Path(f"{i}")) for i in iterations for w in widths]


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_a_tracked_width_is_itself(sigma_rel):
    factors, distance = combination(sources(1000, 256, (0.05, 0.1, 0.2)), sigma_rel)
    assert distance < 1e-4
    expected = np.zeros(12)
    expected[9 + [0.05, 0.1, 0.2].index(sigma_rel)] = 1
    assert factors == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("sigma_rel", "bound"), [(0.07, 0.03), (0.14, 0.03), (0.25, 0.1)])
def test_other_widths_are_met_and_their_factors_sum_to_one(sigma_rel, bound):
    kept = sources(1000, 256, (0.05, 0.1, 0.2))
    factors, distance = combination(kept, sigma_rel)
    assert factors.sum() == pytest.approx(1)
    assert distance < bound
    # the distance against a sum over a fine grid of times
    tau = (np.arange(100_000) + 0.5) / 100_000

    def profile(t, width):
        gamma = ema.power_exponent(width)
        return np.where(tau < t, (gamma + 1) / t * (tau / t) ** gamma, 0)

    met = sum(f * profile(s.iteration / 1000, s.sigma_rel) for f, s in zip(factors, kept, strict=True))
    wanted = profile(1.0, sigma_rel)
    assert distance == pytest.approx(np.sqrt(((met - wanted) ** 2).mean() / (wanted**2).mean()), rel=0.02)


def test_it_is_the_average_that_would_have_been_tracked(tmp_path):
    """Weights that wander for 1,000 iterations: three widths are tracked and kept, two others as a check."""
    torch.manual_seed(0)
    model = torch.nn.Linear(50, 40)
    tracked = {width: torch.nn.Linear(50, 40) for width in (0.05, 0.1, 0.2, 0.07, 0.14)}
    for t in range(1, 1001):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1 / t**0.5)
        for width, average in tracked.items():
            ema.update(average, model, ema.decay(t, width))
        if posthoc.due(t, 6):
            posthoc.write(tmp_path, t, {width: tracked[width] for width in (0.05, 0.1, 0.2)}, 6)
    assert [int(path.stem) for path in posthoc.snapshots(tmp_path)] == [128, 256, 384, 512, 640, 768]
    last = tmp_path / "checkpoints" / "00001000"
    last.mkdir(parents=True)
    for width in (0.05, 0.1, 0.2):
        safetensors.torch.save_file(tracked[width].state_dict(), last / f"{AVERAGE}{width}.safetensors")
    (last / "progress.json").touch()
    kept = posthoc.sources(tmp_path)
    for width in (0.07, 0.14):
        found, _ = posthoc.reconstruct(kept, width, dict(model.named_parameters()))
        direct = dict(tracked[width].named_parameters())
        apart = (tracked[0.1].weight - direct["weight"]).norm()
        assert (found["weight"] - direct["weight"]).norm() < 0.1 * apart
        assert found["bias"] == pytest.approx(direct["bias"].detach().numpy(), abs=0.02)


def test_a_run_is_averaged_over_a_chosen_width(image_folder, quick_preset, tmp_path):
    out = tmp_path / "run"
    model = api.train(image_folder, out, preset=quick_preset, iterations=60, say=lambda _: None)
    assert [int(path.stem) for path in posthoc.snapshots(out)] == [8, 16, 24, 32, 40, 48]
    same = api.choose_average(out, sigma_rel=0.1, say=lambda _: None)
    for name, parameter in same.named_parameters():
        assert torch.allclose(parameter, model.get_parameter(name), atol=1e-4), name
    assert torch.allclose(same.z_mean, model.z_mean, atol=1e-3)
    said: list[str] = []
    best = api.choose_average(out, out=tmp_path / "best", say=said.append)
    tried = {width: figures["loss"] for width, figures in best.history["ema"]["tried"].items()}
    assert len(tried) == len(said) == len(WIDTHS)
    assert tried[f"{best.history['ema']['sigma_rel']:g}"] == min(tried.values()) < max(tried.values())
    assert DiffusionAutoencoder.from_pretrained(tmp_path / "best").stamp == best.stamp
    assert DiffusionAutoencoder.from_pretrained(out / "ema" / "0.1").stamp == same.stamp
    assert DiffusionAutoencoder.from_pretrained(out).stamp == model.stamp


def test_what_cannot_be_averaged_is_told(image_folder, quick_preset, tmp_path):
    out = tmp_path / "run"
    api.train(image_folder, out, preset=quick_preset, iterations=2, say=lambda _: None)
    with pytest.raises(ZsemError, match=r"between 0 and 0\.28, not 0\.4"):
        api.choose_average(out, sigma_rel=0.4)
    with pytest.raises(ZsemError, match="other images"):
        api.choose_average(out, data=load_images(image_folder, size=16, limit=10))
    for path in (out / "checkpoints").glob("*/progress.json"):
        path.unlink()
    with pytest.raises(ZsemError, match="has no checkpoint"):
        api.choose_average(out)
