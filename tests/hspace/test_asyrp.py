from dataclasses import replace

import pytest
import torch

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import ddim, last
from zsem.hspace.asyrp import asyrp, asyrp_grid, scaled_as_published
from zsem.hspace.edits import asymmetric, symmetric
from zsem.hspace.engine import Edited
from zsem.values.draws import normal
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

NOTHING = Condition()


class Linear:
    """A network whose eps is theta x_t / sigma: h is eps itself."""

    def __init__(self, theta, schedule):
        self.theta, self.schedule = theta, schedule

    def down(self, x_t, t, cond):
        return self.theta * x_t / self.schedule.level(t)[1].float()[:, None, None, None], None

    def up(self, h, context):
        return h

    def __call__(self, x_t, t, cond):
        return self.up(*self.down(x_t, t, cond))


def noise(number, shape):
    return lambda step: normal([(5, i, step) for i in range(number)], shape)


@torch.no_grad()
def as_written(model, x, levels, shift, t_edit, t_boost, fresh):
    """The three phases as the paper has them, in alphas_cumprod."""
    abar = model.schedule.alphas_cumprod
    for i, t in enumerate(levels):
        a, before = abar[t], abar[levels[i + 1]] if i + 1 < len(levels) else torch.tensor(1.0).double()
        at = torch.full((len(x),), float(t))
        h, context = model.unet.down(x.float(), at, NOTHING)
        eps = edited = model.unet.up(h, context).double()
        if t >= t_edit:
            edited = model.unet.up(h + shift(h, at), context).double()
        eta = 1 if t < t_boost else 0
        spread = eta * ((1 - before) / (1 - a)).sqrt() * (1 - a / before).sqrt()
        x0 = (x - (1 - a).sqrt() * edited) / a.sqrt()
        x = before.sqrt() * x0 + (1 - before - spread**2).sqrt() * eps + spread * fresh(i)
    return x


def test_the_process_is_the_published_one(model, model_noise, random_direction):
    levels = [999, 800, 600, 513, 400, 200, 100, 50, 0]
    shift = random_direction(model, timesteps=(999.0, 513.0))
    grid = TimeGrid.from_levels(model.schedule, t=torch.tensor(levels).double(), clean=True)
    x, fresh = model_noise.double(), noise(4, (3, 16, 16))
    found, nfe = last(asyrp(model.denoiser, NOTHING, x, grid, shift, t_edit=513, t_boost=167, noise=fresh))
    wanted = as_written(model, x, levels, shift, 513, 167, fresh)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert nfe == len(levels)
    unedited = as_written(model, x, levels, shift, 1000, 0, fresh)
    assert (wanted - unedited).abs().mean() > 0.1
    with pytest.raises(ValueError, match="needs `noise`"):
        last(asyrp(model.denoiser, NOTHING, x, grid, shift, t_edit=513, t_boost=167))


def test_without_a_shift_it_is_ddim_to_the_bit(model, model_noise, random_direction, counting):
    grid = asyrp_grid(model.schedule, 8, t_edit=500)
    counted = counting(model.unet)
    denoise = replace(model.denoiser, network=counted)
    plain, _ = last(ddim(bind(model.denoiser, NOTHING), model_noise, grid))
    found, _ = last(asyrp(denoise, NOTHING, model_noise, grid, 0 * random_direction(model), t_edit=500))
    assert torch.equal(found, plain)
    assert (counted.downs, counted.ups) == (8, 8)
    last(asyrp(denoise, NOTHING, model_noise, grid, random_direction(model), t_edit=500))
    edited = int((grid.t[:-1] >= 500).sum())
    assert (counted.downs, counted.ups) == (16, 16 + edited)


def test_each_step_is_a_symmetric_edit_with_a_gain_that_grows_with_the_number_of_steps(
    model, model_noise, random_direction
):
    shift = random_direction(model)
    for t, after in ((999.0, 700.0), (999.0, 990.0), (600.0, 0.0)):
        grid = TimeGrid.from_levels(model.schedule, t=torch.tensor([t, after]).double())
        gain = float(grid.u[0] / (grid.u[0] - grid.u[1]))
        one, _ = last(asyrp(model.denoiser, NOTHING, model_noise, grid, shift, t_edit=0))
        same, _ = last(ddim(bind(Edited(model.denoiser, shift, gain), NOTHING), model_noise, grid))
        torch.testing.assert_close(one, same, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("theta", [0.0, 0.5])
@pytest.mark.parametrize("steps", [10, 40])
def test_a_linear_network_is_edited_as_formulas_say(theta, steps):
    schedule = NoiseSchedule()
    denoise = NetworkDenoiser(Linear(theta, schedule), schedule, "eps")
    shift, gain, t_edit = (lambda h, t: torch.full_like(h, 0.01)), 3.0, 500
    x = normal([(1, 0), (1, 1)], (1, 4, 4)).double()
    grid = asyrp_grid(schedule, steps, t_edit=t_edit)
    u, levels = grid.u, grid.t[:-1].tolist()
    factors = [1 + theta * float(u[i + 1] / u[i] - 1) for i in range(steps)]
    onward = [float(torch.tensor(factors[i + 1 :]).double().prod()) for i in range(steps)]
    edited = [i for i in range(steps) if levels[i] >= t_edit]
    start = x / grid.alpha[0] * float(torch.tensor(factors).double().prod())
    asym, _ = last(asyrp(denoise, NOTHING, x, grid, shift, t_edit=t_edit))
    in_x0 = sum(-0.01 * float(u[i]) * onward[i] for i in edited)
    torch.testing.assert_close(asym, start + in_x0, rtol=1e-5, atol=1e-5)
    both = Edited(denoise, shift, gain, interval=(t_edit, 999))
    sym, _ = last(ddim(bind(both, NOTHING), x, grid))
    in_both = sum(0.01 * gain * float(u[i + 1] - u[i]) * onward[i] for i in edited)
    torch.testing.assert_close(sym, start + in_both, rtol=1e-5, atol=1e-5)
    if theta == 0:  # it telescopes: where the edit ends counts, and how many steps lead there does not
        assert in_both == pytest.approx(0.01 * gain * float(u[len(edited)] - u[0]))


def test_the_phases_end_at_levels_of_the_grid():
    schedule = NoiseSchedule()
    grid = asyrp_grid(schedule, 10, t_edit=513, t_boost=167)
    assert grid.steps == 10 and {513.0, 167.0} <= set(grid.t.tolist())
    with pytest.raises(ZsemError, match="t_boost"):
        asyrp_grid(schedule, 10, t_edit=100, t_boost=200)


def test_strengths_are_scaled_as_published():
    ones, h = (lambda h, t: torch.ones_like(h)), torch.zeros(1, 2, 1, 1)
    found = scaled_as_published([(1, ones), (-0.5, ones)], trained_steps=40, steps=1000)(h, torch.zeros(1))
    torch.testing.assert_close(found, torch.full_like(h, 0.5 * 40 / 1000 / 2**0.5))


def test_images_are_edited_from_their_codes(model, model_noise, random_direction, small_model):
    images = model_noise[:3].clamp(-1, 1)
    codes, nothing = model.invert(images, codec="ddim", steps=6), 0 * random_direction(model)
    assert torch.equal(asymmetric(model, codes, nothing, t_edit=400), model.decode(codes))
    assert torch.equal(symmetric(model, codes, nothing, gain=4), model.decode(codes))
    shift = random_direction(model)
    for edited in (
        asymmetric(model, codes, shift, t_edit=400),
        asymmetric(model, codes, shift, t_edit=400, t_boost=350, steps=8),
        symmetric(model, codes, shift, gain=2, interval=(400, 999)),
    ):
        assert edited.shape == images.shape and (edited - model.decode(codes)).abs().mean() > 1e-3
    boosted = {seed: asymmetric(model, codes, shift, t_edit=400, t_boost=350, steps=8, seed=seed) for seed in (0, 1)}
    again = asymmetric(model, codes[:2], shift, t_edit=400, t_boost=350, steps=8, seed=0)
    assert not torch.equal(boosted[0], boosted[1])
    torch.testing.assert_close(again, boosted[0][:2], atol=1e-3, rtol=0)
    of_z = small_model.encode(images[:2], codec="ddim", steps=4)
    assert torch.equal(asymmetric(small_model, of_z, lambda h, t: 0 * h, t_edit=400), small_model.decode(of_z))


def test_what_does_not_fit_is_refused(model, model_noise, random_direction):
    codes = model.invert(model_noise.clamp(-1, 1), steps=3)
    shift = random_direction(model)
    z = replace(shift, space="z", vector=torch.zeros(4))
    foreign, other = replace(shift, model="abc"), replace(shift, vector=torch.zeros(3, 1, 1))
    for wrong, says in ((z, "is in z"), (foreign, "belongs to model abc"), (other, "has shape")):
        with pytest.raises(ZsemError, match=says):
            symmetric(model, codes, wrong)
    with pytest.raises(ZsemError, match="belong to model"):
        asymmetric(model, replace(codes, model="abc"), shift, t_edit=0)
    with pytest.raises(ZsemError, match="how many steps"):
        asymmetric(model, replace(codes, timesteps=(), noise=None), shift, t_edit=0)
