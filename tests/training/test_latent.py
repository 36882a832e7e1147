"""The latent DDIM, trained by the one loop: what it learns, and that a stop changes nothing."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.denoising import LatentObjective
from zsem.models.prior import LatentDiffusion
from zsem.nets.latent import LatentNet
from zsem.training.families import FAMILIES
from zsem.training.latent import train_latent
from zsem.training.plan import Plan, stored_plan
from zsem.training.presets import PRIORS, find_prior
from zsem.training.validation import validate_latent
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch
from zsem.values.prediction import Condition

MEAN = torch.tensor([2.0, -5.0, 0.0])
MIX = torch.tensor([[1.0, 0.0, 0.0], [0.8, 1.2, 0.0], [-0.2, 0.1, 0.3]])


def gaussian(number, seed=0):
    """Codes of a mean and a covariance that are known."""
    return MEAN + draws.normal([(seed, i) for i in range(number)], (3,)) @ MIX.T


def small() -> Plan:
    preset = find_prior("small")
    return Plan(
        preset=replace(
            preset,
            model=replace(preset.model, net=LatentNet.Config(layers=3, hidden=32)),
            training=replace(
                preset.training, batch_size=64, learning_rate=5e-3, warmup=10, log_every=1, precision="fp32",
                replicas=1,
            ),
        )
    )  # fmt: skip


def quiet(line: str) -> None:
    """Nobody listens."""


def losses(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_it_learns_mean_and_covariance(tmp_path):
    z, held_out = gaussian(2000), gaussian(300, seed=1)
    model = train_latent(z, held_out, small(), tmp_path, iterations=200, say=quiet, history={"model": "here"})
    covariance = MIX @ MIX.T
    scale = covariance.diagonal().sqrt()
    for solver, steps in (("ddim", 100), ("unipc", 30)):
        drawn = model.sample(600, steps=steps, solver=solver)
        assert float(((drawn.mean(0) - MEAN) / scale).abs().max()) < 0.2
        assert float(((torch.cov(drawn.T) - covariance) / scale / scale[:, None]).abs().max()) < 0.3
    assert model.history["model"] == "here"
    figures = model.history["validation"]
    assert figures["n"] == 300
    assert figures == asdict(validate_latent(model, held_out, "simple", "l1"))  # the same noise every time
    assert figures["loss"] == pytest.approx(sum(figures["levels"].values()) / len(figures["levels"]))
    untrained = LatentDiffusion(model.config)
    assert figures["loss"] < 0.75 * validate_latent(untrained, held_out, "simple", "l1").loss
    assert stored_plan(tmp_path).preset == small().preset


def test_a_training_goes_on_where_it_stopped(tmp_path):
    z, held_out = gaussian(200), gaussian(50, seed=1)

    def stop(record, model):
        if record["iteration"] == 4 and "loss" in record:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    whole = train_latent(z, held_out, small(), tmp_path / "whole", iterations=8, say=quiet)
    train_latent(z, held_out, small(), tmp_path / "parts", iterations=8, say=quiet, callbacks=[stop])
    assert len(losses(tmp_path / "parts")) < 8
    again = train_latent(z, held_out, stored_plan(tmp_path / "parts"), tmp_path / "parts", iterations=8, say=quiet)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert again.stamp == whole.stamp


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_the_loss_is_that_of_eps_on_normalised_codes(error):
    """A network that answers 0 is off by eps itself: on average sqrt(2 / pi) absolute, 1 squared."""
    means = {"l1": (2 / torch.pi) ** 0.5, "l2": 1.0}
    model = LatentDiffusion(LatentDiffusion.Config(z_dim=3, net=LatentNet.Config(layers=2, hidden=4)))
    for parameter in model.net.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    shown = []
    model.net.register_forward_hook(lambda _, given, __: shown.append(given))
    model.z_mean.copy_(MEAN)
    z = gaussian(1500)
    batch = Batch(images=z[:, :, None, None], names=[(0, 0, i) for i in range(len(z))])
    objective = LatentObjective(model, LatentObjective.Config(error=error))
    (phase,) = objective.phases(batch, objective.networks)
    assert phase.loss.item() == pytest.approx(means[error], abs=0.05)
    ((z_t, t),) = shown
    alpha, sigma = (level.float()[:, None] for level in model.schedule.level(t))
    eps = (z_t - alpha * (z - MEAN)) / sigma  # only the normalised code leaves normal noise
    assert abs(float(eps[sigma[:, 0] > 0.5].std()) - 1) < 0.05


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_the_loss_is_the_same_whatever_is_predicted(error):
    """A network of v that stands for the answer eps = 0 has the loss of that answer."""

    class Silent(torch.nn.Module):
        def __init__(self, prediction, schedule):
            super().__init__()
            self.prediction, self.schedule = prediction, schedule

        def forward(self, z_t, t):
            alpha, sigma = (level.float()[:, None] for level in self.schedule.level(t))
            x0 = z_t / alpha
            return {"eps": 0 * x0, "v": -sigma * x0, "x0": x0}[self.prediction]

    z, losses = gaussian(64), []
    batch = Batch(images=z[:, :, None, None], names=[(0, 0, i) for i in range(len(z))])
    for prediction in ("eps", "v", "x0"):
        model = LatentDiffusion(LatentDiffusion.Config(z_dim=3, net=LatentNet.Config(layers=2, hidden=4),
                                                       prediction=prediction))  # fmt: skip
        objective = LatentObjective(model, LatentObjective.Config(error=error))
        (phase,) = objective.phases(batch, {"latent": Silent(prediction, model.schedule)})
        losses.append(phase.loss.item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


def test_the_published_settings():
    """DiffAE, supplement A.1 and table 7, and the numbers of parameters that its code has."""
    paper = PRIORS["paper"]
    schedule = NoiseSchedule(paper.model.schedule)
    torch.testing.assert_close(schedule.alphas_cumprod, 0.992 ** torch.arange(1, 1001, dtype=torch.float64))
    assert (paper.objective.error, paper.objective.weighting) == ("l1", "simple")
    assert (paper.training.learning_rate, paper.training.weight_decay, paper.training.batch_size) == (1e-4, 0.01, 256)
    for name, number in (("paper", 54_109_696), ("paper20", 117_106_176)):
        with torch.device("meta"):
            net = LatentNet(PRIORS[name].model.net, z_dim=512)
        assert sum(p.numel() for p in net.parameters()) == number
    assert FAMILIES["latent_diffusion"].model is LatentDiffusion
    with pytest.raises(ZsemError, match="choose one of small"):
        find_prior("large")


def test_the_denoiser_of_a_copy_is_the_copy():
    model = LatentDiffusion(LatentDiffusion.Config(z_dim=3, net=LatentNet.Config(layers=2, hidden=4)))
    other = LatentNet(model.config.net, z_dim=3)
    z_t, t = torch.randn(2, 3, 1, 1), torch.tensor([5.0, 500.0])
    out = model.denoiser_of(other)(z_t, t, Condition()).eps[:, :, 0, 0]
    assert torch.equal(out, other(z_t[:, :, 0, 0], t))
