"""Classifier and semantic guidance where the exact classifier, score and gradient are known."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.guidance import ClassifierGuidance, Clip, Extrapolate, SemanticGuidance
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid, level_like
from zsem.diffusion.solvers import SOLVERS, ddpm, last
from zsem.values import draws
from zsem.values.prediction import Condition, Prediction

LINEAR = NoiseSchedule()
T500 = torch.full((4,), 500.0)
TIMES = torch.tensor([3.0, 150.0, 500.0, 990.0])
OLD = Condition(z=torch.linspace(-1, 1, 16).view(4, 4))
NEW = Condition(z=torch.linspace(2, -1, 16).view(4, 4))


class TwoGaussians:
    """Images of which one third is N(m, s^2) and two thirds are N(-m, s^2) in every pixel, and all that is known of
    them: the exact denoiser, that of each kind alone, and the exact classifier of noisy images."""

    schedule = LINEAR
    prior = (1 / 3, 2 / 3)

    def __init__(self) -> None:
        self.evaluations = 0
        self.mean, self.std = 0.25 * torch.cos(torch.arange(48, dtype=torch.float64)).view(3, 4, 4), 0.4

    def of_kind(self, kind: int, x_t: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = level_like(LINEAR, t, x_t)
        mean = self.mean.to(x_t) * (1 - 2 * kind)
        surprise = (x_t - alpha * mean) / ((alpha * self.std) ** 2 + sigma**2)
        return Prediction(x0=mean + alpha * self.std**2 * surprise, eps=sigma * surprise)

    def log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(kind) p(x_t | kind) but for a constant, [b, 2]."""
        alpha, sigma = level_like(LINEAR, t, x_t)
        spread = (alpha * self.std) ** 2 + sigma**2
        kinds = [
            math.log(self.prior[k])
            - 0.5 * ((x_t - alpha * self.mean.to(x_t) * (1 - 2 * k)) ** 2 / spread).sum((1, 2, 3))
            for k in (0, 1)
        ]
        return torch.stack(kinds, dim=1)

    def classifier(self, kind: int) -> Callable[[Tensor, Tensor], Tensor]:
        def log_prob(x_t: Tensor, t: Tensor) -> Tensor:
            assert x_t.dtype == t.dtype == torch.float32
            self.evaluations += 1
            return self.log_joint(x_t, t).log_softmax(dim=1)[:, kind]

        return log_prob

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        share = self.log_joint(x_t, t).softmax(dim=1)[:, :, None, None, None]
        kinds = [self.of_kind(k, x_t, t) for k in (0, 1)]
        return Prediction(
            x0=sum(share[:, k] * kinds[k].x0 for k in (0, 1)), eps=sum(share[:, k] * kinds[k].eps for k in (0, 1))
        )


@pytest.fixture
def two() -> TwoGaussians:
    return TwoGaussians()


@pytest.fixture(scope="module")
def x_t() -> Tensor:
    return torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", [0, 1])
def test_scale_1_with_the_exact_classifier_is_the_denoiser_of_the_class(
    kind: int, two: TwoGaussians, x_t: Tensor
) -> None:
    """score(x_t) + grad log p(y | x_t) is score(x_t | y), whatever the other class is."""
    guided = ClassifierGuidance(two, two.classifier(kind), 1.0)(x_t, TIMES)
    exact = two.of_kind(kind, x_t, TIMES)
    torch.testing.assert_close(guided.eps, exact.eps, rtol=0, atol=1e-5)
    torch.testing.assert_close(guided.x0, exact.x0, rtol=0, atol=1e-4)
    assert not torch.allclose(two(x_t, TIMES).eps[2:], exact.eps[2:], atol=1e-2)


def test_the_formula_of_the_score_form(two: TwoGaussians, x_t: Tensor) -> None:
    plain, guided = two(x_t, TIMES), ClassifierGuidance(two, two.classifier(0), 2.5)(x_t, TIMES)
    x = x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(two.log_joint(x, TIMES).log_softmax(dim=1)[:, 0].sum(), x)
    alpha, sigma = level_like(LINEAR, TIMES, x_t)
    torch.testing.assert_close(guided.eps, plain.eps - sigma * 2.5 * gradient, rtol=0, atol=1e-5)
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x_t, rtol=0, atol=1e-10)
    assert guided.mean_shift is None


def test_samples_of_a_class(two: TwoGaussians) -> None:
    """With the exact classifier at scale 1 samples are those of the class: in law for ddpm in both forms, and along
    the probability-flow ODE one by one."""
    x_T = draws.normal([(0, i) for i in range(200)], (3, 4, 4))
    grid = TimeGrid.make(LINEAR, 100)
    wanted = -two.mean  # kind 1
    heun, _ = last(SOLVERS["heun"](ClassifierGuidance(two, two.classifier(1), 1.0), x_T, grid))
    u = float(grid.u[0])
    flow = wanted + (x_T.double() / grid.alpha[0] - wanted) * two.std / math.sqrt(two.std**2 + u**2)
    torch.testing.assert_close(heun, flow, rtol=0, atol=2e-3)
    for form in ("score", "mean"):
        guided = ClassifierGuidance(two, two.classifier(1), 1.0, form=form)
        noise = {i: draws.normal([(1, i)], tuple(x_T.shape))[0] for i in range(100)}
        x, _ = last(ddpm(guided, x_T, grid, noise=noise.__getitem__))
        error = (x.mean(dim=0) - wanted).square().mean().sqrt()
        assert float(error) < 0.045  # 0.4 / sqrt(200) is 0.028
        assert float(x.std(dim=0).mean()) == pytest.approx(two.std, rel=0.06)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_mean_form_shifts_by_the_variance_of_the_step(variance: str, x_t: Tensor, two: TwoGaussians) -> None:
    """ADM, algorithm 1, step by step; on the step to the clean image as guided-diffusion has it."""
    fraction = torch.full_like(x_t, 0.3)

    class Learned(TwoGaussians):
        def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
            plain = super().__call__(x_t, t)
            return Prediction(x0=plain.x0, eps=plain.eps, var_fraction=fraction)

    grid = TimeGrid.from_levels(LINEAR, t=torch.tensor([700.0, 400.0, 0.0]), clean=True)
    denoise, zero = Learned(), torch.zeros_like(x_t)
    guided = ClassifierGuidance(denoise, denoise.classifier(0), 3.0, form="mean")
    keep = grid.alpha[:-1] / grid.alpha[1:]
    beta, small = 1 - keep**2, (1 - keep**2) * (grid.sigma[1:] / grid.sigma[:-1]) ** 2
    low = torch.cat([small[:2], small[1:2]])  # the last step, to the clean image, has the variance of the one before
    spread = {"small": small, "large": torch.cat([beta[:2], low[2:]]), "learned": low**0.7 * beta**0.3}[variance]
    x = x_t
    for i, step in enumerate(ddpm(guided, x_t, grid, noise=lambda _: zero, variance=variance)):
        plain, shift = denoise(x, grid.t[i].expand(4)), guided(x, grid.t[i].expand(4)).mean_shift
        torch.testing.assert_close(step.prediction.eps, plain.eps)
        mean = grid.alpha[i + 1] * beta[i] / grid.sigma[i] ** 2 * plain.x0
        mean = mean + keep[i] * (grid.sigma[i + 1] / grid.sigma[i]) ** 2 * x
        torch.testing.assert_close(step.x, mean + spread[i] * shift, rtol=1e-9, atol=1e-9)
        x = step.x


def test_both_forms_have_one_gradient(two: TwoGaussians, x_t: Tensor) -> None:
    score, mean = (ClassifierGuidance(two, two.classifier(0), 3.0, form=form)(x_t, TIMES) for form in ("score", "mean"))
    _, sigma = level_like(LINEAR, TIMES, x_t)
    torch.testing.assert_close(score.eps, two(x_t, TIMES).eps - sigma * mean.mean_shift)


@pytest.mark.parametrize("form", ["score", "mean"])
@pytest.mark.parametrize(("scale", "interval"), [(0.0, None), (0, None), (2.0, (0, 499)), (2.0, (501.0, 999))])
def test_where_nothing_is_added_the_classifier_is_not_asked(
    *, form: Any, scale: float, interval: Any, conv: Callable[..., NetworkDenoiser], noises: Tensor, two: TwoGaussians
) -> None:
    network = conv(LINEAR)
    denoise, x_t = bind(network, NEW), noises.double()
    plain = denoise(x_t, T500)
    network.network.evaluations = 0
    answer = ClassifierGuidance(denoise, two.classifier(0), scale, form=form, interval=interval)(x_t, T500)
    assert (network.network.evaluations, two.evaluations) == (1, 0)
    assert torch.equal(answer.eps, plain.eps)
    assert torch.equal(answer.x0, plain.x0)
    assert answer.mean_shift is None


def test_a_classifier_acts_inside_its_interval_alone(two: TwoGaussians, x_t: Tensor) -> None:
    t = torch.tensor([199.0, 200.0, 600.0, 601.0])
    always, plain = ClassifierGuidance(two, two.classifier(0), 2.0)(x_t, t), two(x_t, t)
    within = ClassifierGuidance(two, two.classifier(0), 2.0, interval=(200, 600))(x_t, t)
    assert torch.equal(within.eps[1:3], always.eps[1:3])
    assert torch.equal(within.eps[[0, 3]], plain.eps[[0, 3]])
    shift = ClassifierGuidance(two, two.classifier(0), 2.0, interval=(200, 600), form="mean")(x_t, t).mean_shift
    assert not bool(shift[[0, 3]].any())
    assert bool(shift[1:3].any())


def test_two_classifiers_add_up(two: TwoGaussians, x_t: Tensor) -> None:
    for form in ("score", "mean"):
        inner = ClassifierGuidance(two, two.classifier(0), 2.0, form=form)
        both = ClassifierGuidance(inner, two.classifier(0), 1.0, form=form)(x_t, TIMES)
        once = ClassifierGuidance(two, two.classifier(0), 3.0, form=form)(x_t, TIMES)
        torch.testing.assert_close(both.eps, once.eps)
        torch.testing.assert_close(both.mean_shift, once.mean_shift)


def test_solvers_that_cannot_shift_the_mean_say_so(two: TwoGaussians, x_t: Tensor) -> None:
    guided = ClassifierGuidance(two, two.classifier(0), 1.0, form="mean")
    for name in set(SOLVERS) - {"ddpm"}:
        with pytest.raises(ValueError, match="score form"):
            last(SOLVERS[name](guided, x_t, TimeGrid.make(LINEAR, 3)))


TARGET = torch.linspace(-1, 1, 48).view(3, 4, 4)


def brightness(x0: Tensor) -> Tensor:
    assert x0.dtype == torch.float32
    return x0.mean(dim=(1, 2, 3))


def pattern(x0: Tensor) -> Tensor:
    return 5 * (TARGET.to(x0) * x0).mean(dim=(1, 2, 3))


def nearness(x0: Tensor) -> Tensor:
    return -0.5 * (x0 - TARGET.to(x0)).square().sum(dim=(1, 2, 3))


@pytest.mark.parametrize("through", ["denoiser", "x0"])
def test_semantic_guidance_in_closed_form(through: Any, gaussian: Any, x_t: Tensor) -> None:
    """The gradient of scalars of the exact denoiser, whose x0 is linear in x_t."""
    guided = SemanticGuidance(gaussian, [(2.0, nearness), (-3, brightness)], through=through)(x_t, TIMES)
    plain = gaussian(x_t, TIMES)
    alpha, sigma = level_like(LINEAR, TIMES, x_t)
    slope = alpha * gaussian.std**2 / ((alpha * gaussian.std) ** 2 + sigma**2) if through == "denoiser" else 1 / alpha
    gradient = slope * (2.0 * (TARGET - plain.x0) - 3 / 48)
    torch.testing.assert_close(guided.eps, plain.eps - sigma * gradient, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x_t, rtol=0, atol=1e-9)
    assert not guided.eps.requires_grad


@pytest.mark.parametrize("through", ["denoiser", "x0"])
def test_normalised_weights_count_alike_whatever_the_unit(through: Any, gaussian: Any, x_t: Tensor) -> None:
    def pull(*terms: Any) -> Tensor:
        guided = SemanticGuidance(gaussian, terms, through=through, normalise=True)(x_t, TIMES)
        return (gaussian(x_t, TIMES).eps - guided.eps) / level_like(LINEAR, TIMES, x_t)[1]

    one = pull((1.0, brightness))
    torch.testing.assert_close(one.square().mean(dim=(1, 2, 3)).sqrt(), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(pull((1.0, lambda x0: 1e4 * brightness(x0))), one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pull((2.0, brightness), (-1.0, pattern)), 2 * one - pull((1, pattern)))


def test_without_weights_no_scalar_is_asked(conv: Callable[..., NetworkDenoiser], noises: Tensor) -> None:
    def never(x0: Tensor) -> Tensor:
        raise AssertionError

    network = conv(LINEAR)
    denoise, x_t = bind(network, NEW), noises.double()
    plain = denoise(x_t, T500)
    network.network.evaluations = 0
    for options in ({"terms": [(0, never), (0.0, never)]}, {"terms": []}, {"terms": [(1, never)], "interval": (0, 9)}):
        answer = SemanticGuidance(denoise, **options)(x_t, T500)
        assert torch.equal(answer.eps, plain.eps)
        assert torch.equal(answer.x0, plain.x0)
    assert network.network.evaluations == 3


def test_semantic_guidance_acts_inside_its_interval_alone(gaussian: Any, x_t: Tensor) -> None:
    t, plain = torch.tensor([199.0, 200.0, 600.0, 601.0]), gaussian(x_t, torch.tensor([199.0, 200.0, 600.0, 601.0]))
    for through in ("denoiser", "x0"):
        always = SemanticGuidance(gaussian, [(5, nearness)], through=through)(x_t, t)
        within = SemanticGuidance(gaussian, [(5, nearness)], through=through, interval=(200, 600))(x_t, t)
        assert torch.equal(within.eps[1:3], always.eps[1:3])
        assert torch.equal(within.eps[[0, 3]], plain.eps[[0, 3]])


def test_nested_semantic_guidance_adds_up(gaussian: Any, x_t: Tensor) -> None:
    """The outer gradient goes through the inner one's denoiser, with what the inner one adds for constant."""
    inner = SemanticGuidance(gaussian, [(4.0, pattern)])
    nested = SemanticGuidance(inner, [(-2.0, brightness)])(x_t, TIMES)
    together = SemanticGuidance(gaussian, [(-2.0, brightness), (4.0, pattern)])(x_t, TIMES)
    torch.testing.assert_close(nested.eps, together.eps, rtol=1e-6, atol=1e-7)
    assert not nested.eps.requires_grad


def test_the_gradient_goes_through_other_guidance(conv: Callable[..., NetworkDenoiser], noises: Tensor) -> None:
    """Round classifier-free guidance it is that of the guided x0: autograd's, by finite differences."""
    denoise, x_t = Clip(Extrapolate(conv(LINEAR, "v"), OLD, NEW, 3.0)), noises.double()

    def score(x0: Tensor) -> Tensor:
        return x0.square().mean(dim=(1, 2, 3))

    step = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        guided, plain = SemanticGuidance(denoise, [(1.0, score)])(x_t, T500), denoise(x_t, T500)
        ahead, behind = (score(denoise(x_t + side * 1e-2 * step, T500).x0) for side in (1, -1))
    gradient = (plain.eps - guided.eps) / level_like(LINEAR, T500, x_t)[1]
    slope = (gradient * step).sum(dim=(1, 2, 3))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-2, rtol=0.02, atol=1e-4)
    assert float(slope.abs().mean()) > 0.01
