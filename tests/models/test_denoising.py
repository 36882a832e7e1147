"""What the objectives show the networks: noisy versions, timesteps, dropped codes and classes; and what they teach."""

from dataclasses import replace

import pytest
import torch

from zsem.data.intensity import full_range
from zsem.diffusion.losses import ImportanceTimesteps
from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.denoising import AutoencoderObjective, DiffusionObjective, first_below
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import UNet
from zsem.values.errors import ZsemError
from zsem.values.objective import Adaptive, Batch
from zsem.values.prediction import Condition

CONDITIONAL = DiffusionModel.Config(
    image_size=8, image_channels=1, class_names=("a", "b", "c"),
    unet=UNet.Config(
        channels=16, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=16, num_classes=3,
        patch=4,
    ),
)  # fmt: skip


class Watch(torch.nn.Module):
    """The networks, with a note of what they were shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.shown = network, []

    def forward(self, *shown):
        self.shown.append(shown)
        return self.network(*shown)


def batch(rows):
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images=images[rows], names=[(1, 2, i) for i in range(8)[rows]])


def shown(model, config, rows=slice(None)):
    objective = AutoencoderObjective(model, config)
    watch = Watch(objective.networks["autoencoder"])
    (phase,) = objective.phases(batch(rows), {"autoencoder": watch})
    return watch.shown[0], phase.loss


def test_several_noisy_versions_of_an_image(small_model):
    config = AutoencoderObjective.Config(noise_draws=3)
    (x0, x_t, t, keep), loss = shown(small_model, config)
    assert (len(x0), len(x_t), len(t), keep) == (8, 24, 24, None)
    assert len(set(t.tolist())) > 12
    alpha, sigma = (level.float()[:, None, None, None] for level in small_model.schedule.level(t))
    eps = (x_t - alpha * x0.repeat_interleave(3, dim=0)) / sigma  # only the right image leaves normal noise
    assert abs(float(eps.std()) - 1) < 0.05
    (_, part, times, _), part_loss = shown(small_model, config, slice(4, 6))
    torch.testing.assert_close(part, x_t[12:18])  # the cut into batches does not matter
    assert torch.equal(times, t[12:18])
    assert torch.isfinite(loss) and torch.isfinite(part_loss)


def test_dropped_codes_are_what_no_code_means(small_model):
    (x0, x_t, t, keep), _ = shown(small_model, AutoencoderObjective.Config(z_dropout=0.5))
    dropped = keep[:, 0] == 0
    assert 0 < int(dropped.sum()) < 8
    network = AutoencoderObjective(small_model, AutoencoderObjective.Config()).networks["autoencoder"]
    with torch.no_grad():
        out = network(x0, x_t, t, keep)
        alone = small_model.unet(x_t, t, Condition())
        told = small_model.unet(x_t, t, Condition(z=small_model.encoder(x0)))
    torch.testing.assert_close(out[dropped], alone[dropped], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out[~dropped], told[~dropped], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone, told, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"), [({"noise_draws": 0}, "noise_draws .* at least 1, not 0"), ({"z_dropout": 1.0}, "not 1")]
)
def test_an_autoencoder_is_shown_every_image_and_some_codes(small_model, changes, told):
    with pytest.raises(ZsemError, match=told):
        AutoencoderObjective(small_model, AutoencoderObjective.Config(**changes))


@pytest.mark.parametrize("log_snr", [-2.0, 0.0, 3.0])
def test_high_noise_begins_where_the_schedule_says(log_snr):
    schedule = NoiseSchedule()
    first = first_below(schedule, log_snr)
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)).log()
    assert snr[first] < log_snr <= snr[first - 1]
    assert first_below(schedule, -100.0) == 999


def diffusion(**changes):
    """A diffusion model that answers something."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = DiffusionModel(replace(CONDITIONAL, **changes))
        torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    return model


def classed(number, iteration=3):
    random = torch.Generator().manual_seed(iteration)
    return Batch(
        images=torch.randint(0, 256, (number, 1, 8, 8), dtype=torch.uint8, generator=random),
        classes=torch.arange(number) % 4 - 1, names=[(5, iteration, i) for i in range(number)],
    )  # fmt: skip


def told(objective, *batches):
    """The classes that the network is told."""
    watch = Watch(objective.networks["diffusion"])
    with torch.no_grad():
        for part in batches:
            list(objective.phases(part, {"diffusion": watch}))
    return torch.cat([cond.classes for _, _, cond in watch.shown])


def test_classes_are_dropped_by_the_name_of_the_image():
    objective = DiffusionObjective(diffusion(class_dropout=0.2), DiffusionObjective.Config())
    batches = [classed(800, iteration) for iteration in range(5)]
    given, shown = torch.cat([part.classes for part in batches]), told(objective, *batches)
    known = given >= 0
    dropped = shown[known] == -1
    deviation = (0.2 * 0.8 / int(known.sum())) ** 0.5
    assert abs(float(dropped.double().mean()) - 0.2) < 4 * deviation
    assert torch.equal(shown[known][~dropped], given[known][~dropped])
    assert bool((shown[~known] == -1).all())  # unknown remains unknown
    assert torch.equal(told(objective, *(part for whole in batches for part in whole.parts(3))), shown)
    never = DiffusionObjective(diffusion(class_dropout=0.0), DiffusionObjective.Config())
    assert torch.equal(told(never, *batches), given)


def test_without_classes_dropout_means_nothing():
    model = diffusion(unet=replace(CONDITIONAL.unet, num_classes=None), class_names=())
    assert model.config.class_dropout == 0.1
    objective = DiffusionObjective(model, DiffusionObjective.Config())
    watch = Watch(objective.networks["diffusion"])
    list(objective.phases(classed(4), {"diffusion": watch}))
    assert watch.shown[0][2].classes is None


def test_the_loss_is_that_of_eps_under_the_simple_weighting():
    model = diffusion(prediction="eps", class_dropout=0.0)
    watch = Watch(model.unet)
    config = DiffusionObjective.Config(weighting="simple")
    (phase,) = DiffusionObjective(model, config).phases(classed(6), {"diffusion": watch})
    x_t, t, cond = watch.shown[0]
    bar = model.schedule.alphas_cumprod[t.long()].float()[:, None, None, None]
    eps = (x_t - bar.sqrt() * (classed(6).images / 127.5 - 1)) / (1 - bar).sqrt()
    with torch.no_grad():
        expected = (model.unet(x_t, t, cond) - eps).square().mean()
    torch.testing.assert_close(phase.loss.detach(), expected, rtol=1e-4, atol=0)
    assert abs(float(eps.std()) - 1) < 0.1


def test_what_cannot_be_taught_is_told():
    objective = DiffusionObjective(diffusion(), DiffusionObjective.Config())
    with pytest.raises(ZsemError, match="images have none"):
        next(objective.phases(replace(classed(4), classes=None), objective.networks))
    with pytest.raises(ZsemError, match="3 classes"):
        next(objective.phases(replace(classed(4), classes=torch.tensor([0, 1, 2, 3])), objective.networks))
    with pytest.raises(ZsemError, match="8-bit"):
        DiffusionObjective(diffusion(learned_range=True, intensity=full_range("uint16")), DiffusionObjective.Config())
    with pytest.raises(ZsemError, match="noisy_share"):
        DiffusionObjective(diffusion(), DiffusionObjective.Config(timesteps="importance", noisy_share=0.5))
    with pytest.raises(ZsemError, match=r"noisy_share is a share of the draws, from 0 to 1, not 1\.5"):
        DiffusionObjective(diffusion(), DiffusionObjective.Config(noisy_share=1.5))
    with pytest.raises(ZsemError, match="vlb_weight must not be negative, and is -1"):
        DiffusionObjective(diffusion(), DiffusionObjective.Config(vlb_weight=-1.0))
    for names in (("a", "b"), ("a", "b", "b")):
        with pytest.raises(ZsemError, match="class_names"):
            diffusion(class_names=names)


def test_a_learned_variance_is_taught_by_the_bound_and_nothing_else_is():
    model, batch = diffusion(learned_range=True, class_dropout=0.0), classed(16)

    def gradient(**settings):
        model.zero_grad()
        objective = DiffusionObjective(model, DiffusionObjective.Config(**settings))
        (phase,) = objective.phases(batch, objective.networks)
        phase.loss.backward()
        return model.unet.conv_out.weight.grad.chunk(2)  # of the prediction, and of its variance

    prediction, variance = gradient()
    alone, nothing = gradient(vlb_weight=0.0)
    assert float(variance.norm()) > 1e-6 and not nothing.any()
    assert torch.equal(prediction, alone)
    assert torch.equal(gradient(vlb_weight=0.1)[1] != 0, variance != 0)
    torch.testing.assert_close(gradient(vlb_weight=0.1)[1], 100 * variance, rtol=1e-3, atol=1e-6)


def test_importance_learns_in_the_order_of_positions_however_a_batch_is_cut():
    model = diffusion(schedule=NoiseSchedule.Config(timesteps=5))
    config = DiffusionObjective.Config(timesteps="importance")
    states, totals = [], []
    for number in (1, 3):
        objective = DiffusionObjective(model, config)
        assert isinstance(objective, Adaptive)
        for iteration in range(8):
            batch, total = classed(24, iteration), 0.0
            for part in reversed(batch.parts(number)):  # as threads may end in any order
                (phase,) = objective.phases(part, objective.networks)
                total += phase.loss.item() * len(part.names) / 24
            with torch.no_grad():  # a look learns nothing
                next(objective.phases(batch, objective.networks))
            objective.iterated(lambda tensor: tensor)
            totals.append(total)
        states.append(objective.state_dict())
    assert torch.equal(states[0]["seen"], states[1]["seen"]) and int(states[0]["seen"].sum()) == 8 * 24
    torch.testing.assert_close(states[0]["losses"], states[1]["losses"], rtol=1e-5, atol=0)
    assert totals[8:] == pytest.approx(totals[:8], rel=1e-5)
    learned = ImportanceTimesteps(5)
    learned.load_state_dict(states[0])
    assert float(learned.probabilities().std()) > 0.01  # not uniform any more


def test_objectives_that_learn_nothing_have_nothing_to_keep(small_model):
    objective = AutoencoderObjective(small_model, AutoencoderObjective.Config())
    objective.iterated(lambda tensor: tensor)
    assert objective.state_dict() == {}
    assert AutoencoderObjective(small_model, AutoencoderObjective.Config(timesteps="importance")).state_dict()
