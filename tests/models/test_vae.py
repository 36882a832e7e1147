"""The VAE: its bound against torch.distributions, what it learns of digits, codes and samples."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from zsem.data.batches import Batches
from zsem.models.base import Model
from zsem.models.vae import (
    LATENT_DRAW,
    ROUNDING,
    VaeObjective,
    VariationalAutoencoder,
    kl_nats,
    negative_elbo,
    reconstruction_nats,
)
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.vae import Decoder
from zsem.training.loop import Loop
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch

CONFIG = VariationalAutoencoder.Config(
    image_size=8,
    image_channels=1,
    z_dim=16,
    encoder=SemanticEncoder.Config(
        channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), patch=2, pool=2
    ),
    decoder=Decoder.Config(channels=16, channel_mult=(1, 2), embed_channels=32),
)
SETTINGS = Loop.Config(
    batch_size=32, learning_rate=1e-2, warmup=20, flip=False, precision="fp32", ema_others=(), ema_snapshots=0
)


def awake(model):
    """No layer silent."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return awake(VariationalAutoencoder(CONFIG))


@pytest.fixture(scope="module")
def trained(tiny_digits, quiet_loop, tmp_path_factory):
    """A VAE after 150 iterations of the loop."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VariationalAutoencoder(CONFIG)
    objective = VaeObjective(model, VaeObjective.Config())
    held_out = tiny_digits.held_out()
    loop = quiet_loop(
        model, objective, SETTINGS, tmp_path_factory.mktemp("run"), validate=lambda vae: negative_elbo(vae, held_out)
    )
    return loop.run(Batches(tiny_digits.split("train"), batch_size=SETTINGS.batch_size), iterations=150)


def test_the_kl_term_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_var = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    q = Normal(mean, (log_var / 2).exp())
    expected = kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_nats(mean, log_var), expected)


def test_the_reconstruction_term_is_a_normal_density_with_the_best_variance():
    generator = torch.Generator().manual_seed(0)
    x, decoded = torch.rand(2, 3, 2, 4, 4, generator=generator)

    def density(sigma: torch.Tensor) -> torch.Tensor:
        """-log p in nats, expected over rounding: two points have the variance of the whole interval."""
        normal = Normal(decoded, sigma[:, None, None, None])
        return -torch.stack([normal.log_prob(x + sign * ROUNDING**0.5) for sign in (-1, 1)]).mean(0).sum((1, 2, 3))

    sigma = ((x - decoded).square().mean(dim=(1, 2, 3)) + ROUNDING).sqrt()
    torch.testing.assert_close(reconstruction_nats(x, decoded), density(sigma))
    for factor in (0.9, 1.1):
        assert (density(factor * sigma) > density(sigma) + 0.1).all()
    levels = torch.linspace(-0.5, 0.5, 100_001, dtype=torch.float64) * 2 / 255
    assert levels.var() == pytest.approx(ROUNDING, rel=1e-4)
    assert reconstruction_nats(x, x).isfinite().all()


def test_the_loss_is_the_negative_bound_per_number(model, tiny_digits):
    pixels = tiny_digits.pixels[:6]
    batch = Batch(images=pixels, names=[(0, 5, i) for i in range(6)])

    def loss(beta: float, batch: Batch = batch) -> torch.Tensor:
        objective = VaeObjective(model, VaeObjective.Config(beta=beta))
        (phase,) = objective.phases(batch, objective.networks)
        assert phase.optimiser == "vae"
        return phase.loss

    mean, log_var = model.posterior(pixels / 127.5 - 1)
    kl = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(loss(3.0) - loss(1.0), 2 * kl / 64)
    # z is as many standard deviations from its mean as the draw that is named so
    eps = draws.normal([(*name, LATENT_DRAW) for name in batch.names], (16,))
    z = Normal(mean, (log_var / 2).exp()).icdf(Normal(0.0, 1.0).cdf(eps))
    decoded = model.decoder(z)
    expected = (reconstruction_nats(pixels / 127.5 - 1, decoded).mean() + kl) / 64
    torch.testing.assert_close(loss(1.0), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(model.decoder(mean), decoded, atol=0.01)
    assert loss(1.0) == loss(1.0) != loss(1.0, replace(batch, names=[(0, 6, i) for i in range(6)]))
    loss(1.0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_negative_weight_is_refused(model):
    with pytest.raises(ZsemError, match="beta must not be negative, and is -1"):
        VaeObjective(model, VaeObjective.Config(beta=-1.0))


def test_held_out_figures_do_not_depend_on_batches(model, tiny_digits):
    held_out = tiny_digits.held_out().limit(10)
    figures = negative_elbo(model, held_out)
    assert negative_elbo(model, held_out, batch_size=3) == pytest.approx(figures, rel=1e-5)
    mse = ((model.reconstruct(held_out) - (held_out.pixels / 127.5 - 1)) / 2).square().mean()
    assert figures["mse"] == pytest.approx(float(mse), rel=1e-5)
    more = negative_elbo(model, held_out, beta=2.0)
    assert more["loss"] - figures["loss"] == pytest.approx(figures["kl"] / 64, rel=1e-4)
    # images from memory have no names, and still always the same draws
    assert negative_elbo(model, held_out.pixels) == negative_elbo(model, held_out.pixels)


def test_it_reconstructs_better_than_the_mean_image(trained, tiny_digits):
    x = tiny_digits.held_out().pixels / 127.5 - 1
    mean_image = (tiny_digits.split("train").pixels / 127.5 - 1).mean(dim=0)
    mse = ((trained.reconstruct(tiny_digits.held_out()) - x) / 2).square().mean()
    assert mse < 0.75 * ((mean_image - x) / 2).square().mean()
    figures = trained.history["validation"]
    assert figures["mse"] == pytest.approx(float(mse), rel=1e-4)
    # an image of noise as wide as the pixels, and codes that say nothing
    assert figures["loss"] < 0.5 * math.log(2 * math.pi * math.e * float(x.var()))
    assert figures["kl"] > 1


def test_codes_tell_digits_apart(trained, tiny_digits):
    z = trained.encode(tiny_digits)
    assert z.shape == (len(tiny_digits), 16) and z.device.type == "cpu" and not z.requires_grad
    pixels = tiny_digits.pixels.flatten(1).float()
    near = torch.cdist(z, z).fill_diagonal_(math.inf).argmin(dim=1)
    to_neighbour = (pixels - pixels[near]).square().mean()
    assert to_neighbour < 0.6 * (pixels - pixels[near.flip(0)]).square().mean()


def test_a_sample_depends_on_seed_and_position_alone(trained):
    together = trained.sample(5, seed=4)
    assert together.shape == (5, 1, 8, 8) and together.isfinite().all()
    torch.testing.assert_close(trained.sample(3, seed=4, batch_size=2), together[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(trained.sample(3, seed=4, first=2), together[2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(trained.decode(trained.fresh_z(5, seed=4)), together)
    assert not torch.allclose(trained.sample(5, seed=5), together, atol=1e-2)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert trained.display(together).dtype == torch.uint8


def test_a_folder_gives_the_same_model(model, tiny_digits, tmp_path):
    again = Model.from_pretrained(model.save(tmp_path))
    assert isinstance(again, VariationalAutoencoder) and again.config == CONFIG
    assert torch.equal(again.encode(tiny_digits.pixels[:4]), model.encode(tiny_digits.pixels[:4]))
    assert torch.equal(again.sample(2), model.sample(2))


def test_any_size_that_the_levels_can_halve(tiny_digits):
    oblong = VariationalAutoencoder(replace(CONFIG, image_size=(8, 12), image_channels=4))
    assert oblong.sample(2).shape == (2, 4, 8, 12)
    assert oblong.reconstruct(torch.zeros(1, 4, 8, 12)).shape == (1, 4, 8, 12)
    with pytest.raises(ZsemError, match="does not fit the VAE: it must be a multiple of 4"):
        VariationalAutoencoder(replace(CONFIG, image_size=10))
    with pytest.raises(ZsemError, match="give 1 or more"):
        VariationalAutoencoder(replace(CONFIG, image_size=0))
    with pytest.raises(ZsemError, match=r"must be \[n, 4, 8, 12\]"):
        oblong.encode(tiny_digits.pixels[:1])
    with pytest.raises(ZsemError, match="16 numbers here, not 3"):
        oblong.decode(torch.zeros(1, 3))
    with pytest.raises(ZsemError, match="2 samples cannot be made of 1"):
        oblong.sample(2, z=torch.zeros(1, 16))
    with pytest.raises(ZsemError, match="at least one sample"):
        oblong.sample(0)
