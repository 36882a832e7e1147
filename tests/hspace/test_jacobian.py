import numpy as np
import pytest
import torch

from zsem.hspace.jacobian import directions, moved, to_level
from zsem.models.imaging import evaluation
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

T = 500


@pytest.fixture(scope="module")
def images(model_noise):
    return model_noise.clamp(-1, 1)


@pytest.fixture(scope="module")
def tiny(random_model):
    """A model small enough for its whole Jacobian, with attention in the middle and a learned variance."""
    return random_model(image_size=4, image_channels=1, prediction="v", learned_range=True)


@pytest.fixture(scope="module")
def tiny_codes(tiny, model_noise):
    return to_level(tiny, model_noise[:3, :1, :4, :4].clamp(-1, 1), T, steps=5)


def whole(model, codes, setting, mask=None):
    """The Jacobian as a matrix, by reverse mode alone, image by image, stacked over images."""
    rows = []
    for i in range(len(codes)):
        x_t, t = codes.noise.x_T[i : i + 1], torch.tensor([codes.timesteps[0]]).float()
        with evaluation(model):
            h, context = model.unet.down(x_t, t, Condition())

        def f(v, x_t=x_t, t=t, h=h, context=context):
            if setting == "eps_of_h":
                return model.denoiser.answer(model.unet.up(h + v, context), x_t, t).eps
            if setting == "h_of_x":
                return model.unet.down(x_t + v, t, Condition())[0]
            return model.denoiser(x_t + v, t, Condition()).x0

        at = torch.zeros_like(h[0] if setting == "eps_of_h" else x_t[0])
        jacobian = torch.autograd.functional.jacobian(f, at)
        if mask is not None:
            jacobian = jacobian * mask.view(1, 1, *mask.shape, 1, 1, 1)
        rows.append(jacobian.reshape(-1, at.numel()))
    return torch.cat(rows).double() / len(codes) ** 0.5


@pytest.mark.parametrize(("setting", "number"), [("eps_of_h", 3), ("h_of_x", 1), ("x0_of_x", 1)])
def test_directions_are_the_singular_vectors_of_the_whole_jacobian(tiny, tiny_codes, setting, number):
    codes = tiny_codes[:number]
    found, triplets = directions(tiny, codes, 2, setting, tolerance=1e-4)
    _, sigma, rows = torch.linalg.svd(whole(tiny, codes, setting), full_matrices=False)
    torch.testing.assert_close(triplets.sigma, sigma[:2], atol=0, rtol=1e-4)
    for one, row in zip(found, rows, strict=False):
        assert abs(float(one.vector.flatten().double() @ row)) > 0.999
        assert one.timesteps == (float(T),) and one.model == tiny.stamp
        assert one.space == ("h" if setting == "eps_of_h" else "x")


def test_local_directions_change_what_is_in_the_mask_most_and_the_rest_least(tiny, tiny_codes):
    codes = tiny_codes[:1]
    mask = torch.zeros(4, 4)
    mask[:2, :2] = 1
    inside, outside = (whole(tiny, codes, "x0_of_x", part) for part in (mask, 1 - mask))
    found, triplets = directions(tiny, codes, 1, "x0_of_x", mask=mask, rest=3, tolerance=1e-4)
    rest = torch.linalg.svd(outside, full_matrices=False)[2][:3]
    v = found[0].vector.flatten().double()
    assert (rest @ v).abs().max() < 1e-3
    wanted = torch.linalg.svd(inside - (inside @ rest.T) @ rest)
    assert abs(float(v @ wanted[2][0])) > 0.999
    assert float(triplets.sigma[0]) == pytest.approx(float(wanted[1][0]), rel=1e-3)
    plain = directions(tiny, codes, 1, "x0_of_x", mask=mask, rest=0, tolerance=1e-4)[0][0]
    plain_v = plain.vector.flatten().double()
    assert (outside @ v).norm() < (outside @ plain_v).norm()


def test_images_come_back_from_a_noise_level_and_directions_move_them(model, images):
    codes = to_level(model, images, 600, steps=6)
    assert codes.timesteps[0] == 600 and codes.steps == 6
    torch.testing.assert_close(model.decode(codes), images, atol=1e-5, rtol=0)
    alpha, _ = model.schedule.level(torch.tensor(600.0))
    assert not torch.allclose(codes.noise.x_T, (alpha * images).float())
    found, _ = directions(model, codes[:1], 2, "h_of_x", iterations=1)
    same = moved(codes, [(0, found[0])])
    assert torch.equal(model.decode(same), model.decode(codes))
    twice = moved(codes, [(5, found[0]), (-2, found[1])])
    wanted = codes.noise.x_T + 5 * found[0].vector - 2 * found[1].vector
    torch.testing.assert_close(twice.noise.x_T, wanted)
    assert (model.decode(twice) - images).abs().max() > 1e-3
    before, after = (model.bottleneck(x, 600) for x in (codes.noise.x_T[:1], twice.noise.x_T[:1]))
    assert (after - before).norm() > 0


def test_an_autoencoder_keeps_its_z(small_model, images):
    codes = to_level(small_model, images[:1], 400, steps=4)
    found, triplets = directions(small_model, codes, 1, "eps_of_h", iterations=1)
    assert tuple(found[0].vector.shape[1:]) == small_model.bottleneck_shape
    assert float(triplets.sigma[0]) > 0 and triplets.products == 6
    assert torch.equal(small_model.encode(images[:1], noise=False).z, codes.z)


def test_mistakes(model, images, random_direction):
    codes = to_level(model, images[:1], 600, steps=4)
    mask = torch.ones(16, 16)
    with pytest.raises(ZsemError, match="a mask is of images"):
        directions(model, codes, 1, "h_of_x", mask=mask)
    with pytest.raises(ZsemError, match=r"must be \[16, 16\]"):
        directions(model, codes, 1, mask=torch.ones(8, 8))
    with pytest.raises(ZsemError, match="belong to a noise level"):
        directions(model, model.invert(images[:1], steps=4)[:0].__class__(z=codes.z, shape=codes.shape), 1)
    with pytest.raises(ZsemError, match="ask for fewer"):
        directions(model, codes, 10**6, iterations=1)
    (local,), _ = directions(model, codes, 1, "x0_of_x", iterations=1)
    with pytest.raises(ZsemError, match="is of timestep 600"):
        moved(to_level(model, images[:1], 500, steps=4), [(1, local)])
    with pytest.raises(ZsemError, match="is none in x_t"):
        moved(codes, [(1, random_direction(model))])
    with pytest.raises(ZsemError, match="must lie between 1 and"):
        to_level(model, images, 5, steps=9)


def test_sigma_is_how_far_a_small_step_changes_the_prediction(model, images):
    codes = to_level(model, images[:2], 600, steps=4)
    (first,), triplets = directions(model, codes, 1, "eps_of_h", tolerance=1e-3)
    x_t, t = codes.noise.x_T, torch.full((2,), 600.0)
    with evaluation(model):
        h, context = model.unet.down(x_t, t, Condition())
        ends = [
            model.denoiser.answer(model.unet.up(h + step * first.vector[0], context), x_t, t).eps
            for step in (-1e-2, 1e-2)
        ]
    change = ((ends[1] - ends[0]) / 2e-2).flatten(1).norm(dim=1)
    assert float(change.square().mean().sqrt()) == pytest.approx(float(triplets.sigma[0]), rel=1e-2)
    assert np.isfinite(triplets.residual)
