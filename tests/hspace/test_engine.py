from dataclasses import replace

import pytest
import torch

from zsem.diffusion.codecs import CODECS
from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Extrapolate
from zsem.diffusion.solvers import SOLVERS
from zsem.hspace.engine import Edited, Shifts, predictions
from zsem.models.imaging import evaluation
from zsem.values.draws import normal
from zsem.values.prediction import Condition

NOTHING = Condition()


@pytest.fixture
def x_t(model_noise):
    return model_noise[:3].double()


def at(t, number=3):
    return torch.full((number,), float(t), dtype=torch.float64)


def same(a, b):
    return all(
        torch.equal(x, y) if x is not None else y is None
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("learned_range", [False, True])
def test_eps_is_extrapolated_along_what_the_shifted_network_says(
    x_t, prediction, learned_range, random_model, random_direction
):
    model = random_model(prediction=prediction, learned_range=learned_range)
    shift, t = random_direction(model), at(400)
    h, context = model.unet.down(x_t.float(), t.float(), NOTHING)
    answers = [model.denoiser.answer(model.unet.up(h + dh, context), x_t, t) for dh in (0, shift.vector)]
    wanted = answers[0].eps + 3.5 * (answers[1].eps - answers[0].eps)
    assert (answers[1].eps - answers[0].eps).std() > 0.01
    found = Edited(model.denoiser, shift, 3.5)(x_t, t, NOTHING)
    torch.testing.assert_close(found.eps, wanted)
    alpha, sigma = (level[0] for level in model.schedule.level(t))
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x_t)
    assert (found.var_fraction is not None) == learned_range
    if learned_range:
        torch.testing.assert_close(found.var_fraction, answers[1].var_fraction)
    assert same(Edited(model.denoiser, shift)(x_t, t, NOTHING), answers[1])


@torch.no_grad()
def test_where_nothing_is_edited_the_answer_is_the_plain_one_and_costs_the_same(model, x_t, random_direction, counting):
    counted = counting(model.unet)
    denoise = replace(model.denoiser, network=counted)
    plain = model.denoiser(x_t, at(400), NOTHING)
    shift = random_direction(model)
    for edited in (
        Edited(denoise, shift, 0),
        Edited(denoise, 0 * shift, 5),
        Edited(denoise, Shifts([(0, shift), (1, 0 * shift)]), 5),
        Edited(denoise, shift, 5, interval=(401, 999)),
    ):
        counted.downs = counted.ups = 0
        assert same(edited(x_t, at(400), NOTHING), plain)
        assert (counted.downs, counted.ups) == (1, 1)
    for gain, decoders in ((1, 1), (5, 2)):
        counted.downs = counted.ups = 0
        changed = Edited(denoise, shift, gain, interval=(400, 999))(x_t, at(400), NOTHING)
        assert (changed.eps - plain.eps).std() > 0.01
        assert (counted.downs, counted.ups) == (1, decoders)


@torch.no_grad()
def test_an_interval_acts_on_the_images_that_are_in_it(model, x_t, random_direction):
    t = torch.tensor([600.0, 200.0, 400.0], dtype=torch.float64)
    shift = random_direction(model)
    plain = model.denoiser(x_t, t, NOTHING)
    for gain in (1, 2):
        whole, part = (Edited(model.denoiser, shift, gain, interval=i)(x_t, t, NOTHING) for i in (None, (300, 500)))
        torch.testing.assert_close(part.eps[2], whole.eps[2])
        assert torch.equal(part.eps[:2], plain.eps[:2])


@torch.no_grad()
def test_both_predictions_share_the_encoder(model, x_t, random_direction, counting):
    counted = counting(model.unet)
    denoise = replace(model.denoiser, network=counted)
    plain, shifted = predictions(denoise, x_t, at(300), NOTHING, random_direction(model))
    assert plain is not None and (counted.downs, counted.ups) == (1, 2)
    assert same(plain, model.denoiser(x_t, at(300), NOTHING))
    assert (plain.eps - shifted.eps).std() > 0.01


@torch.no_grad()
def test_guidance_goes_on_from_an_edit_as_from_any_denoiser(x_t, random_model, random_direction):
    model = random_model(num_classes=2, class_dropout=0.1)
    edited = Edited(model.denoiser, random_direction(model), 2)
    none, one = (Condition(classes=torch.full((3,), value)) for value in (-1, 1))
    guided = Extrapolate(edited, none, one, 3)(x_t, at(500))
    base, cond = (edited(x_t, at(500), told).eps for told in (none, one))
    torch.testing.assert_close(guided.eps, base + 3 * (cond - base), atol=1e-5, rtol=0)
    dh = normal([(9, i) for i in range(3)], model.bottleneck_shape)  # for each image its own
    own = Extrapolate(Edited(model.denoiser, lambda h, t: dh, 2, alike=False), none, one, 3)
    assert not Edited(model.denoiser, lambda h, t: dh, alike=False).rowwise
    assert own(x_t, at(500)).eps.isfinite().all()


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_walks_with_an_edit(model, solver, random_direction):
    shift = random_direction(model, timesteps=(999.0, 500.0), size=3)
    plain, idle, edited = (
        model.sample(2, solver=solver, steps=4, denoiser=denoiser)
        for denoiser in (None, Edited(model.denoiser, shift, 0), Edited(model.denoiser, shift, interval=(300, 999)))
    )
    assert torch.equal(plain, idle)
    assert (edited - plain).abs().mean() > 1e-3


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_codec_decodes_with_an_edit(model, codec, x_t, random_direction):
    images = x_t.float().clamp(-1, 1)
    codes = model.invert(images, codec=codec, steps=5)
    plain = model.decode(codes)

    def with_gain(gain):
        return lambda cond, _: bind(Edited(model.denoiser, random_direction(model), gain, interval=(300, 999)), cond)

    assert torch.equal(model.decode(codes, steer=with_gain(0)), plain)
    assert (model.decode(codes, steer=with_gain(2)) - plain).abs().mean() > 1e-3
    if codec == "exact":  # the edited process is one that can be undone itself
        inverted = model.invert(images, steps=5, storage=torch.float64, steer=with_gain(2))
        torch.testing.assert_close(model.decode(inverted, steer=with_gain(2)), images, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_bottleneck_is_what_the_decoder_goes_on_from(model, small_model, x_t):
    x = x_t.float()
    h = model.bottleneck(x, 300)
    assert tuple(h.shape[1:]) == model.bottleneck_shape
    wanted, context = model.unet.down(x, at(300).float(), NOTHING)
    assert torch.equal(h, wanted)
    with evaluation(model):
        assert torch.equal(model.unet.up(h, context), model.unet(x, at(300).float(), NOTHING))
    assert torch.equal(model.bottleneck(x, torch.tensor([300.0, 300.0, 300.0])), h)
    z = torch.ones(3, 8)
    assert tuple(small_model.bottleneck(x, 300, z).shape[1:]) == small_model.bottleneck_shape
    assert not torch.equal(small_model.bottleneck(x, 300, z), small_model.bottleneck(x, 300))


def test_a_network_without_halves_cannot_be_edited(model, random_direction):
    denoise = replace(model.denoiser, network=lambda x, t, cond: x)
    with pytest.raises(ValueError, match="no bottleneck"):
        Edited(denoise, random_direction(model))
