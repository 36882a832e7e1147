"""Every solver with every guidance, alone and in every nesting."""

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
from zsem.values.prediction import Condition

LINEAR = NoiseSchedule()
Z = {"old": torch.linspace(-1, 1, 16).view(4, 4), "new": torch.linspace(2, -1, 16).view(4, 4)}
TARGETS = torch.linspace(-1, 1, 4)


class Guidance:
    """The guidances for some of four images; each image has its own condition, class and target."""

    def __init__(self, network: NetworkDenoiser, rows: list[int]) -> None:
        self.network = network
        self.old, self.new = (Condition(z=Z[name][rows]) for name in ("old", "new"))
        self.target = TARGETS[rows]

    def bound(self) -> Any:
        return bind(self.network, self.new)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        tone = torch.tanh(x_t).mean(dim=(1, 2, 3))
        return torch.nn.functional.logsigmoid(20 * self.target * tone + t / 1000)

    def likeness(self, x0: Tensor) -> Tensor:
        return -3 * (x0 - self.target[:, None, None, None]).square().mean(dim=(1, 2, 3))

    def classifier(self, denoise: Any, form: Any = "score") -> Any:
        return ClassifierGuidance(denoise, self.log_prob, 4.0 if form == "score" else 20.0, form=form)

    def semantic(self, denoise: Any, **options: Any) -> Any:
        return SemanticGuidance(denoise, [(2.0, self.likeness)], **options)

    def extrapolate(self, denoise: Any) -> Any:
        return Extrapolate(denoise, self.old, self.new, 2.5, rescale=0.3, interval=(0, 900))


NESTINGS: dict[str, Callable[[Guidance], Any]] = {
    "extrapolate": lambda g: g.extrapolate(g.network),
    "classifier": lambda g: g.classifier(g.bound()),
    "semantic": lambda g: g.semantic(g.bound()),
    "semantic through x0": lambda g: g.semantic(g.bound(), through="x0", normalise=True),
    "clip": lambda g: Clip(g.bound()),
    "clip(classifier(extrapolate))": lambda g: Clip(g.classifier(g.extrapolate(g.network))),
    "classifier(clip(extrapolate))": lambda g: g.classifier(Clip(g.extrapolate(g.network))),
    "classifier(extrapolate(clip))": lambda g: g.classifier(g.extrapolate(Clip(g.network))),
    "extrapolate(clip(classifier))": lambda g: g.extrapolate(Clip(g.classifier(g.network))),
    "extrapolate(classifier(clip))": lambda g: g.extrapolate(g.classifier(Clip(g.network))),
    "clip(extrapolate(classifier))": lambda g: Clip(g.extrapolate(g.classifier(g.network))),
    "extrapolate(semantic)": lambda g: g.extrapolate(g.semantic(g.network)),
    "semantic(extrapolate)": lambda g: g.semantic(g.extrapolate(g.network)),
    "classifier(semantic(extrapolate))": lambda g: g.classifier(g.semantic(g.extrapolate(g.network))),
    "semantic(classifier(clip))": lambda g: g.semantic(g.classifier(Clip(g.bound()))),
    "semantic(semantic)": lambda g: g.semantic(g.semantic(g.bound()), normalise=True),
    "extrapolate(semantic(classifier))": lambda g: g.extrapolate(g.semantic(g.classifier(g.network), through="x0")),
}
OF_THE_MEAN: dict[str, Callable[[Guidance], Any]] = {
    "mean": lambda g: g.classifier(g.bound(), "mean"),
    "clip(mean(extrapolate))": lambda g: Clip(g.classifier(g.extrapolate(g.network), "mean")),
    "extrapolate(clip(mean))": lambda g: g.extrapolate(Clip(g.classifier(g.network, "mean"))),
    "semantic(classifier(mean))": lambda g: g.semantic(g.classifier(g.classifier(g.bound(), "mean"))),
}
ALL = {**NESTINGS, **OF_THE_MEAN}
CASES = [(nesting, solver) for solver in SOLVERS for nesting in (ALL if solver == "ddpm" else NESTINGS)]


@pytest.fixture
def network(conv: Callable[..., NetworkDenoiser]) -> NetworkDenoiser:
    return conv(LINEAR, "v", gain=0.2)


def noise_for(rows: list[int]) -> Callable[[int], Tensor]:
    return lambda i: draws.normal([(5, row, i) for row in rows], (3, 8, 8))


@pytest.mark.parametrize(("nesting", "solver"), CASES)
def test_every_solver_with_every_guidance(nesting: str, solver: str, network: NetworkDenoiser, noises: Tensor) -> None:
    """Without gradients left over, off the plain walk, and for every image what it is alone."""
    grid, rows = TimeGrid.make(LINEAR, 5, u_max=20.0), [0, 1, 2, 3]

    def walk(guided: Callable[[Guidance], Any], rows: list[int]) -> Tensor:
        options = {"noise": noise_for(rows)} if solver == "ddpm" else {}
        for step in SOLVERS[solver](guided(Guidance(network, rows)), noises[rows], grid, **options):
            assert not (step.prediction.x0.requires_grad or step.prediction.eps.requires_grad or step.x.requires_grad)
        return step.x

    guided, plain = walk(ALL[nesting], rows), walk(lambda g: g.bound(), rows)
    alone = walk(ALL[nesting], [2, 1])[0]
    assert float((alone - guided[2]).norm() / guided[2].norm()) < 1e-4
    assert bool(((guided - plain).square().mean(dim=(1, 2, 3)) > 1e-5).all())


@pytest.mark.parametrize("nesting", ALL)
def test_every_guidance_is_consistent_at_every_level(nesting: str, network: NetworkDenoiser, noises: Tensor) -> None:
    t, x_t = torch.tensor([0.0, 20.5, 600.0, 999.0]), noises.double()
    alpha, sigma = level_like(LINEAR, t, x_t)
    with torch.no_grad():
        prediction = ALL[nesting](Guidance(network, [0, 1, 2, 3]))(x_t, t)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x_t, rtol=0, atol=1e-9)
    assert (prediction.mean_shift is not None) == (nesting in OF_THE_MEAN)


def test_a_classifier_adds_the_same_wherever_it_stands(network: NetworkDenoiser, noises: Tensor) -> None:
    """Its gradient does not depend on the condition, so that extrapolation carries it over."""
    g, x_t, t = Guidance(network, [0, 1, 2, 3]), noises.double(), torch.full((4,), 400.0)
    for form in ("score", "mean"):
        outside = g.classifier(Extrapolate(network, g.old, g.new, 3.0), form)(x_t, t)
        inside = Extrapolate(g.classifier(network, form), g.old, g.new, 3.0)(x_t, t)
        torch.testing.assert_close(inside.eps, outside.eps, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(inside.mean_shift, outside.mean_shift, rtol=1e-5, atol=1e-5)


def test_two_conditions_share_a_batch_only_round_what_treats_each_image_alone(
    network: NetworkDenoiser, noises: Tensor
) -> None:
    g, x_t, t = Guidance(network, [0, 1, 2, 3]), noises.double(), torch.full((4,), 400.0)
    for denoise, evaluations in ((network, 1), (Clip(network), 1), (Clip(g.classifier(network)), 2)):
        network.network.evaluations = network.network.rows = 0
        g.extrapolate(denoise)(x_t, t)
        assert (network.network.evaluations, network.network.rows) == (evaluations, 8)


def test_the_ancestral_solver_reads_the_shift_of_any_nesting(network: NetworkDenoiser, noises: Tensor) -> None:
    g, rows = Guidance(network, [0, 1, 2, 3]), [0, 1, 2, 3]
    grid = TimeGrid.make(LINEAR, 5)
    for make in OF_THE_MEAN.values():
        shifted, _ = last(ddpm(make(g), noises, grid, noise=noise_for(rows)))
        g.log_prob = lambda x_t, t: 0 * x_t.sum(dim=(1, 2, 3))  # a classifier that knows nothing
        without, _ = last(ddpm(make(g), noises, grid, noise=noise_for(rows)))
        del g.log_prob
        assert float((shifted - without).square().mean()) > 1e-4
