"""The Gaussian mixture of codes: its density, what is chosen for it, and conditions that it meets exactly."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from zsem.models.base import Model
from zsem.models.mixture import LatentMixture, tangent
from zsem.models.mixture_fit import fit_mixture
from zsem.values.draws import generator
from zsem.values.errors import ZsemError
from zsem.values.logistic import Logistic


def random_mixture(z_dim=5, components=3, rank=2) -> LatentMixture:
    """A mixture with numbers everywhere."""
    rng = generator(0)
    model = LatentMixture(LatentMixture.Config(z_dim=z_dim, components=components, rank=rank))
    factors = np.tril(rng.normal(size=(components, rank, rank)) / 2)
    factors[:, range(rank), range(rank)] = rng.uniform(0.3, 1, (components, rank))
    values = {
        "basis": np.linalg.qr(rng.normal(size=(z_dim, z_dim)))[0],
        "scales": rng.uniform(0.2, 2, z_dim),
        "weights": rng.dirichlet(np.ones(components)),
        "means": 2 * rng.normal(size=(components, rank)),
        "factors": factors,
        "z_mean": rng.normal(size=z_dim),
        "z_std": rng.uniform(0.5, 3, z_dim),
    }
    for name, value in values.items():
        getattr(model, name).copy_(torch.from_numpy(value))
    return model.eval()


def components_of(model) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and covariances of the components in raw z, float64."""
    d, rank = model.config.z_dim, model.config.rank
    back = torch.diag(model.z_std.double()) @ model.basis.double() @ torch.diag(model.scales.double())
    means, covariances = [], []
    for mean, factor in zip(model.means.double(), model.factors.double(), strict=True):
        whole, wide = torch.eye(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
        whole[:rank, :rank], wide[:rank] = factor @ factor.T, mean
        means.append(back @ wide + model.z_mean)
        covariances.append(back @ whole @ back.T)
    return torch.stack(means), torch.stack(covariances)


def reference(model) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(model.weights.double()), MultivariateNormal(*components_of(model)))


def along(model, direction) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the components along a direction."""
    means, covariances = components_of(model)
    direction = direction.double()
    return (means @ direction).numpy(), (covariances @ direction @ direction).sqrt().numpy()


@pytest.mark.parametrize("rank", [2, 5])
def test_the_density_is_that_of_the_mixture_in_raw_codes(rank):
    model = random_mixture(rank=rank)
    z = model.sample(50, seed=1).double()
    torch.testing.assert_close(model.log_prob(z), reference(model).log_prob(z), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.log_prob(z.float()).double(), model.log_prob(z), atol=1e-2, rtol=1e-3)


def test_samples_have_that_density():
    model = random_mixture()
    z = model.sample(1500, seed=1)
    for direction in torch.eye(5):
        means, deviations = along(model, direction)
        scores = (z @ direction).double().numpy()[:, None]
        place = stats.norm.cdf(scores, means, deviations) @ model.weights.numpy()
        assert stats.kstest(place, "uniform").pvalue > 0.001


def test_a_tilt_by_one_attribute_against_quadrature():
    """Along the probe's direction p(z) sigmoid(a) is a sum of 1-D integrals, which are known to many digits."""
    model = random_mixture()
    weight = torch.tensor([0.7, -0.4, 0.2, 0.5, -0.3])
    where = Logistic(weights=weight[None], offsets=torch.tensor([-4.0]))
    means, deviations = along(model, weight)
    grid = np.linspace((means - 9 * deviations).min(), (means + 9 * deviations).max(), 40001)
    shares = model.weights.numpy()
    density = sum(w * stats.norm.pdf(grid, m, s) for w, m, s in zip(shares, means, deviations, strict=True))
    cumulative = np.cumsum(density / (1 + np.exp(4 - grid)))
    cumulative /= cumulative[-1]
    for method in ("tilt", "rejection"):
        z = model.sample(800, where=where, method=method, seed=2)
        scores = (z @ weight).double().numpy()
        assert stats.kstest(np.interp(scores, grid, cumulative), "uniform").pvalue > 0.001


def test_a_tilt_by_several_attributes_is_what_rejection_gives():
    model = random_mixture()
    where = Logistic(
        weights=torch.tensor([[0.8, 0.1, 0.0, 0.0, 0.3], [-0.2, 0.5, 0.4, 0.0, 0.0]]), offsets=torch.tensor([-1.0, 0.5])
    )
    tilted, rejected = (model.sample(800, where=where, method=m, seed=s) for m, s in (("tilt", 1), ("rejection", 2)))
    for direction in [*torch.eye(5), *where.weights]:
        assert stats.ks_2samp((tilted @ direction).numpy(), (rejected @ direction).numpy()).pvalue > 0.001
    assert torch.equal(model.sample(50, where=where, seed=1), tilted[:50])  # "auto" is the tilt


def test_tilted_proposals_are_accepted_more_often():
    """A condition that hardly a code meets; the tilt proposes such that do."""
    model = random_mixture()
    weight = torch.tensor([0.7, -0.4, 0.2, 0.5, -0.3])
    where = Logistic(weights=3 * weight[None], offsets=torch.tensor([-30.0]))
    propose = model._tilted(where, 1.0)
    z, log_p = propose([(0, i) for i in range(800)])
    assert float(where(model.sample(800)).exp().mean()) < 0.02
    assert bool((log_p <= 0).all())
    assert float(log_p.exp().mean()) > 0.25
    assert float(where(z).exp().mean()) > 0.3


def test_a_tangent_bounds_the_logistic_function():
    """The mass under it is that of a numeric minimum over all tangents, and above the integral that it bounds."""
    a, c = 0.7, 2.3
    (b,) = tangent(torch.tensor([a], dtype=torch.float64), torch.tensor([[c]], dtype=torch.float64)).tolist()
    slopes = np.linspace(0.001, 0.999, 9999)
    masses = a * slopes + c * slopes**2 / 2 - stats.bernoulli(slopes).entropy()
    assert abs(b - slopes[masses.argmin()]) < 1e-3
    grid = np.linspace(-20, 20, 40001)
    exact = np.trapezoid(stats.norm.pdf(grid, a, c**0.5) / (1 + np.exp(-grid)), grid)
    assert exact < np.exp(masses.min()) < 1.5 * exact


def test_codes_depend_on_seed_and_position_alone():
    model = random_mixture()
    where = Logistic(weights=torch.ones(1, 5), offsets=torch.tensor([-5.0]))
    for settings in ({}, {"where": where}, {"where": where, "method": "rejection"}):
        many = model.sample(30, seed=1, **settings)
        torch.testing.assert_close(model.sample(4, seed=1, first=9, **settings), many[9:13], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model.sample(30, seed=2, **settings), many, atol=1e-2)


def test_truncation_draws_nearer_to_the_means_of_components():
    model = random_mixture()
    means, _ = components_of(model)
    distances = torch.cdist(model.sample(40, truncation=0).double(), means).min(dim=1).values
    assert float(distances.max()) < 1e-5
    where = Logistic(weights=torch.ones(1, 5), offsets=torch.tensor([-1.0]))
    tilted, rejected = (model.sample(600, where=where, truncation=0.5, method=m) for m in ("tilt", "rejection"))
    assert stats.ks_2samp(tilted.sum(1).numpy(), rejected.sum(1).numpy()).pvalue > 0.001


def test_methods_that_it_does_not_have():
    model = random_mixture()
    with pytest.raises(ZsemError, match="tilt or rejection, not by guidance"):
        model.sample(1, where=Logistic(weights=torch.ones(1, 5), offsets=torch.zeros(1)), method="guidance")
    with pytest.raises(ZsemError, match="tilted by linear logits"):
        model.sample(1, where=lambda z: -z[:, 0].square(), method="tilt")
    below = model.sample(200, where=lambda z: torch.where(z[:, 0] < 1, 0.0, -1e9))  # "auto" rejects
    assert float(below[:, 0].max()) < 1


def test_what_is_fitted_is_nearly_what_the_codes_came_from(tmp_path):
    """Clusters in a plane, noise in the other dimensions: the fit finds them, and loses little likelihood."""
    rng = generator(3)
    centres = rng.normal(size=(4, 2)) * 4

    def codes(number):
        x = np.concatenate([centres[rng.integers(4, size=number)] + rng.normal(size=(number, 2)) / 2,
                            rng.normal(size=(number, 8)) * np.linspace(1, 0.1, 8)], axis=1)  # fmt: skip
        return torch.from_numpy(x @ rotation).float() * 3 + 1

    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    model, new = LatentMixture.fit(codes(2000)), codes(1000).double()
    chosen = model.history["chosen"]
    assert chosen["components"] >= 4
    inner = (new - 1) / 3 @ torch.from_numpy(rotation).T
    truth = torch.logsumexp(
        MultivariateNormal(torch.from_numpy(centres), torch.eye(2) / 4).log_prob(inner[:, None, :2]), dim=1
    ) - np.log(4)  # fmt: skip
    truth = truth + torch.from_numpy(stats.norm.logpdf(inner[:, 2:], scale=np.linspace(1, 0.1, 8)).sum(1))
    lost = float((truth - 10 * np.log(3) - model.log_prob(new)).mean())
    assert 0 < lost < 0.2
    assert chosen["log_likelihood"] > chosen["one_gaussian"] + 1
    again = Model.from_pretrained(model.save(tmp_path))
    assert isinstance(again, LatentMixture)
    assert again.stamp == model.stamp != random_mixture().stamp
    assert torch.equal(again.sample(5, seed=1), model.sample(5, seed=1))


@pytest.mark.parametrize(("number", "dims"), [(30, 60), (200, 60)])
def test_few_codes_of_many_numbers(number, dims):
    """What they cannot tell is shared: held-out codes stay as probable as under the truth's own scale."""
    rng = generator(4, number)
    scales = np.r_[np.full(5, 3.0), np.full(dims - 5, 0.3)]
    z, new = (rng.normal(size=(n, dims)) * scales for n in (number, 500))
    fitted = fit_mixture(z - z.mean(0))
    assert fitted.chosen["own_variances"] < dims
    model = LatentMixture.of(fitted)
    loss = stats.norm.logpdf(new, scale=scales).sum(1).mean() - float(model.log_prob(torch.from_numpy(new)).mean())
    assert loss < 0.5 * dims


def test_codes_without_any_variance_in_a_direction():
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    z[:, 2] = 1.0
    model = LatentMixture.fit(z)
    drawn = model.sample(20)
    assert bool(drawn.isfinite().all())
    assert float((drawn[:, 2] - 1).abs().max()) < 1e-3


@pytest.mark.parametrize("bad", [torch.zeros(5, 3), torch.full((20, 3), float("nan"))])
def test_codes_that_cannot_be_fitted(bad):
    with pytest.raises(ZsemError, match="at least 10 finite codes"):
        LatentMixture.fit(bad)
    with pytest.raises(ZsemError, match="not 0 in 4"):
        LatentMixture(LatentMixture.Config(z_dim=4, components=0, rank=4))
