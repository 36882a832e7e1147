"""What the objective shows the networks: noisy versions, timesteps, dropped codes."""

import pytest
import torch

from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.denoising import AutoencoderObjective, first_below
from zsem.values.objective import Batch


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
    from zsem.values.prediction import Condition

    with torch.no_grad():
        out = network(x0, x_t, t, keep)
        alone = small_model.unet(x_t, t, Condition())
        told = small_model.unet(x_t, t, Condition(z=small_model.encoder(x0)))
    torch.testing.assert_close(out[dropped], alone[dropped], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out[~dropped], told[~dropped], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone, told, atol=1e-4)


@pytest.mark.parametrize("log_snr", [-2.0, 0.0, 3.0])
def test_high_noise_begins_where_the_schedule_says(log_snr):
    schedule = NoiseSchedule()
    first = first_below(schedule, log_snr)
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)).log()
    assert snr[first] < log_snr <= snr[first - 1]
    assert first_below(schedule, -100.0) == 999
