"""The GAN: its losses and R1 by hand, whose turn it is, what it learns, what interrupts and divides it."""

import copy
import json
import math
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zsem.data.batches import Batches
from zsem.models.base import Model
from zsem.models.diffusion import DiffusionModel
from zsem.models.gan import (
    GanObjective,
    GenerativeAdversarialNetwork,
    discriminator_loss,
    figures,
    generator_loss,
    gradient_penalty,
)
from zsem.models.imaging import ImageModel
from zsem.nets.gan import Discriminator
from zsem.nets.vae import Decoder
from zsem.training.loop import Loop
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch, Phase

CONFIG = GenerativeAdversarialNetwork.Config(
    image_size=8,
    image_channels=1,
    z_dim=16,
    generator=Decoder.Config(channels=16, channel_mult=(1, 2), embed_channels=32),
    discriminator=Discriminator.Config(channels=16, channel_mult=(1, 2)),
)
SETTINGS = Loop.Config(
    batch_size=32, learning_rate=2e-3, betas=(0.0, 0.99), warmup=20, flip=False, precision="fp32",
    ema_others=(), ema_snapshots=0,
)  # fmt: skip


def new_model() -> GenerativeAdversarialNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GenerativeAdversarialNetwork(CONFIG)


@pytest.fixture(autouse=True)
def seeded():
    """Weights and noise of every test are the same whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def model():
    return new_model()


@pytest.fixture
def assemble(tiny_digits, quiet_loop, tmp_path):
    """(name of the folder, settings) -> a loop that trains a GAN on digits, and its batches."""

    def make(name: str = "run", objective: GanObjective.Config | None = None, **settings):
        changed = replace(SETTINGS, **settings)
        gan = new_model()
        loop = quiet_loop(gan, GanObjective(gan, objective or GanObjective.Config()), changed, tmp_path / name)
        return loop, Batches(tiny_digits.split("train"), batch_size=changed.batch_size)

    return make


def test_the_losses_are_cross_entropies():
    real, fake = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    yes, no = torch.ones(50), torch.zeros(50)
    entropy = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(discriminator_loss(real, fake), entropy(real, yes) + entropy(fake, no))
    torch.testing.assert_close(generator_loss(fake), entropy(fake, yes))


def test_r1_of_a_linear_discriminator_is_its_weight():
    linear = torch.nn.Linear(12, 1)
    x0 = torch.randn(5, 3, 2, 2)

    def judge(x):
        return linear(x.flatten(1))[:, 0]

    penalty = gradient_penalty(judge, x0)
    torch.testing.assert_close(penalty, linear.weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(linear.weight.grad, 2 * linear.weight.detach())
    assert not x0.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradient_penalty(judge, x0), penalty)
    with torch.no_grad():
        value = gradient_penalty(judge, x0)
    assert torch.equal(value, penalty) and not value.requires_grad


def test_r1_is_the_mean_over_images_of_the_squared_gradient():
    x0 = torch.randn(5, 3, 2, 2)
    weight = torch.rand(3, 2, 2, requires_grad=True)
    penalty = gradient_penalty(lambda x: (weight * x**2 / 2).sum(dim=(1, 2, 3)), x0)
    torch.testing.assert_close(penalty, (weight * x0).square().sum() / 5)
    (by_weight,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(by_weight, 2 * (weight * x0**2).sum(dim=0).detach() / 5)


def test_a_batch_has_two_phases(model, tiny_digits):
    pixels = tiny_digits.pixels[:6]
    discriminator, generator = (list(network.parameters()) for network in (model.discriminator, model.generator))

    def phases(iteration: int, **config) -> list[Phase]:
        batch = Batch(images=pixels, names=[(0, iteration, i) for i in range(6)])
        objective = GanObjective(model, GanObjective.Config(**config))
        return list(objective.phases(batch, objective.networks))

    first, second = phases(3, r1_every=2)
    assert (first.optimiser, second.optimiser) == ("discriminator", "generator")
    first.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator)
    assert all(p.grad is None for p in generator)
    second.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator)
    # the penalty counts as often as it is left out
    expected = 2 * 10.0 / 2 * gradient_penalty(model.discriminator, pixels / 127.5 - 1)
    torch.testing.assert_close(phases(4, r1=10.0, r1_every=2)[0].loss - phases(4, r1=0.0)[0].loss, expected)
    assert phases(3, r1=10.0, r1_every=2)[0].loss == phases(3, r1=0.0)[0].loss == first.loss


def test_latent_vectors_are_named_by_image_and_phase(model, tiny_digits):
    def drawn(iteration: int, positions: range) -> list[torch.Tensor]:
        """What the generator is given in the two phases; it must be that of the loop, not the model's own."""
        seen: list[torch.Tensor] = []
        generator = copy.deepcopy(model.generator)
        generator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        networks = {"generator": generator, "discriminator": model.discriminator}
        names = [(0, iteration, position) for position in positions]
        batch = Batch(images=tiny_digits.pixels[: len(names)], names=names)
        list(GanObjective(model, GanObjective.Config()).phases(batch, networks))
        return seen

    whole, part = drawn(3, range(6)), drawn(3, range(2, 4))
    assert [z.shape for z in whole] == [(6, 16), (6, 16)]
    for all_of_them, some in zip(whole, part, strict=True):
        assert torch.equal(some, all_of_them[2:4])
    assert not torch.equal(*whole)
    assert not torch.equal(whole[0], drawn(4, range(6))[0])


def test_each_optimiser_moves_its_own_network(assemble):
    loop, batches = assemble()
    seen: list[tuple[str, set[str]]] = []
    before = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}

    def changed() -> set[str]:
        state = loop.model.state_dict()
        names = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
        before.update({name: tensor.clone() for name, tensor in state.items()})
        return {name.split(".")[0] for name in names}

    for name, optimiser in loop.optimisers.items():
        optimiser.register_step_post_hook(lambda *_, name=name: seen.append((name, changed())))
    loop.step(batches, 1e-3)
    assert seen == [("discriminator", {"discriminator"}), ("generator", {"generator"})]
    assert all(parameter.grad is None for parameter in loop.model.parameters())


def first_step(assemble, **settings):
    """Losses of the first iteration, and the gradients of both networks: what AdamW keeps with beta 0."""
    loop, batches = assemble(clip=1e9, **settings)
    loss = loop.step(batches, 0.0)  # at rate 0 the generator's gradient is that at the same discriminator
    states = [loop.optimisers[name].state_dict()["state"] for name in ("discriminator", "generator")]
    return loss, [torch.cat([row["exp_avg"].flatten() for row in state.values()]) for state in states]


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"replicas": 2}, {"accumulate": 3, "replicas": 2}])
def test_parts_of_a_batch_add_up_to_its_gradients(assemble, settings):
    loss, gradients = first_step(assemble)
    in_parts, parts = first_step(assemble, **settings)
    assert in_parts == pytest.approx(loss, rel=1e-6)
    for gradient, part in zip(gradients, parts, strict=True):
        assert gradient.norm() > 1e-3
        assert (part - gradient).norm() < 1e-5 * gradient.norm()


def test_half_precision_gives_nearly_the_same(assemble):
    loss, gradients = first_step(assemble)
    half, rough = first_step(assemble, precision="bf16")
    assert half == pytest.approx(loss, rel=0.02)
    for gradient, part in zip(gradients, rough, strict=True):
        assert 0 < (part - gradient).norm() < 0.1 * gradient.norm()


def test_training_moves_samples_towards_the_data(assemble, tiny_digits):
    loop, batches = assemble(learning_rate=5e-3)
    x = tiny_digits.held_out().pixels / 127.5 - 1

    def distances(gan) -> tuple[float, float]:
        """Between the mean images, root mean square, and between the mean standard deviations of a pixel."""
        samples = gan.sample(200)
        of_mean = (samples.mean(dim=0) - x.mean(dim=0)).square().mean().sqrt()
        return float(of_mean), float((samples.std(dim=0) - x.std(dim=0)).mean().abs())

    before = distances(loop.average)
    after = distances(loop.run(batches, iterations=120))
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.5 * before[1]


def test_a_training_that_is_stopped_goes_on_with_the_same_losses(assemble, tmp_path):
    def losses(name: str) -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["iteration"], line["loss"]) for line in lines if "loss" in line]

    def stop(line, _) -> None:
        if line["iteration"] == 6:
            signal.raise_signal(signal.SIGINT)

    loop, batches = assemble("whole", log_every=2)
    loop.run(batches, iterations=12)
    loop, batches = assemble("stopped", log_every=2)
    loop.run(batches, iterations=12, callbacks=[stop])
    assert losses("stopped")[-1][0] == 6
    loop, batches = assemble("stopped", log_every=2)
    loop.run(batches, iterations=12)
    assert losses("stopped") == losses("whole")
    assert losses("whole")[-1][0] == 12
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert weights[0] == weights[1]


def test_figures_of_a_validation(model, tiny_digits):
    held_out = tiny_digits.held_out().limit(20)
    found = figures(model, held_out)
    with torch.no_grad():
        real, fake = model.discriminator(held_out.pixels / 127.5 - 1), model.discriminator(model.sample(20))
    assert found["loss"] == pytest.approx(float(discriminator_loss(real, fake)), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float(((real > 0).float().mean() + (fake < 0).float().mean()) / 2))
    assert figures(model, held_out, batch_size=7) == pytest.approx(found, rel=1e-5)
    with torch.no_grad():
        for parameter in model.discriminator.parameters():
            parameter.zero_()
    assert figures(model, held_out)["loss"] == pytest.approx(2 * math.log(2))


def test_a_sample_depends_on_seed_and_position_alone(model):
    together = model.sample(5, seed=4)
    assert together.shape == (5, 1, 8, 8) and together.isfinite().all() and together.device.type == "cpu"
    torch.testing.assert_close(model.sample(3, seed=4, batch_size=2), together[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.sample(3, seed=4, first=2), together[2:], atol=1e-5, rtol=0)
    assert torch.equal(model.sample(5, z=model.fresh_z(5, seed=4)), together)
    assert not torch.allclose(model.sample(5, seed=5), together, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_a_folder_gives_the_same_model(model, tiny_digits, tmp_path):
    again = Model.from_pretrained(model.save(tmp_path))
    assert isinstance(again, GenerativeAdversarialNetwork) and again.config == CONFIG
    assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))
    assert figures(again, tiny_digits.pixels[:8]) == figures(model, tiny_digits.pixels[:8])


def test_any_size_that_the_levels_can_halve():
    oblong = GenerativeAdversarialNetwork(replace(CONFIG, image_size=(12, 8), image_channels=4))
    samples = oblong.sample(2)
    assert samples.shape == (2, 4, 12, 8)
    assert oblong.discriminator(samples).shape == (2,)
    with pytest.raises(ZsemError, match="does not fit the GAN: it must be a multiple of 4"):
        GenerativeAdversarialNetwork(replace(CONFIG, image_size=(12, 10)))


def test_a_folder_whose_networks_cannot_be_is_named(model, tmp_path):
    path = model.save(tmp_path) / "config.json"
    path.write_text(path.read_text().replace('"patch": 2', '"patch": 0'))
    with pytest.raises(ZsemError, match=r"config\.json: patch of a network .* not 0; restore the file"):
        Model.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [{"r1": -1.0}, {"r1_every": 0}])
def test_penalties_that_make_no_sense(model, config):
    with pytest.raises(ZsemError, match="is no penalty"):
        GanObjective(model, GanObjective.Config(**config))


def test_another_kind_is_named_by_what_can_be_given(model, tmp_path):
    model.save(tmp_path)
    with pytest.raises(ZsemError, match=r"holds a model of kind .gan., and a .*DiffusionModel.* is wanted") as told:
        ImageModel.from_pretrained(tmp_path)
    assert issubclass(DiffusionModel, ImageModel) and "ImageModel" not in str(told.value)
