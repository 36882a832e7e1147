"""The loss that edits are learned with: its formula by hand, and the processes that it is taken on, written out."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from zsem.hspace import directional
from zsem.hspace.directional import DirectionalObjective, ShiftObjective, TuningObjective, directional_loss
from zsem.hspace.editable import invert
from zsem.hspace.embeddings import Goal
from zsem.hspace.latents import invert_as_published
from zsem.models.shift import LearnedShift
from zsem.nets.shift import ShiftNet
from zsem.training.shifts import RECIPES
from zsem.values.codes import Noise
from zsem.values.draws import normal
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch
from zsem.values.prediction import Condition

RED = torch.tensor([1.0, 0.0, 0.0])


def colours(images):
    """An embedding: the mean colour."""
    return images.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def v_model(random_model):
    """One that predicts v: predictions of x0 stay small at all noise levels."""
    return random_model(prediction="v")


@pytest.fixture(scope="module")
def images():
    return normal([(5, i) for i in range(4)], (3, 16, 16)).tanh()


@pytest.fixture(scope="module")
def codes(v_model, images):
    return invert(v_model, images, steps=6)


def shift_for(model, seed=0):
    torch.manual_seed(seed)
    shift = LearnedShift(LearnedShift.Config(name="red", model=model.stamp, net=ShiftNet.Config.of(model.unet)))
    shift.net.adopt(model.unet)
    return shift


def goal(**settings):
    return Goal(**{"embedding": colours, "direction": RED, "name": "red", "reach": 0.5, "closeness": 0.9} | settings)


def batch(*rows):
    numbers = torch.tensor(rows).view(-1, 1, 1, 1)
    return Batch(images=numbers, names=[(0, 0, i) for i in range(len(rows))])


def losses(objective, *rows):
    return [phase.loss.item() for phase in objective.phases(batch(*rows), objective.networks)]


def test_directional_losses_by_hand():
    change = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 7.0], [-1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    linear = directional_loss(change, RED, "linear").tolist()
    assert linear == pytest.approx([0, 1, 2, 1 - math.sqrt(0.5)], abs=1e-6)
    logarithmic = directional_loss(change, RED, "logarithmic").tolist()
    assert logarithmic[0] == pytest.approx(0, abs=1e-6)
    assert logarithmic[1] == pytest.approx(math.log(2), abs=1e-6)
    assert logarithmic[3] == pytest.approx(-math.log((1 + math.sqrt(0.5)) / 2), abs=1e-6)
    assert math.isfinite(logarithmic[2]) and logarithmic[2] > 5


def test_the_published_loss_by_hand(v_model, codes):
    """.8 * -log((1 + cos) / 2) + 3 * closeness * L1, from one image whose x0 is moved by known amounts."""
    config = RECIPES["published"].objective
    objective = ShiftObjective(v_model, shift_for(v_model), codes, goal(), config, images=torch.zeros(4, 3, 16, 16))
    plain = torch.full((1, 3, 16, 16), 0.1)
    edited = plain + torch.tensor([0.3, -0.1, 0.0]).view(1, 3, 1, 1)
    source = directional.Sources(plain[:, None], torch.zeros(1, 1, 3))  # the real image is grey
    # the change from the real image is (.4, 0, .1), that of the predicted x0 is (.3, -.1, 0)
    cos, moved = 0.4 / math.sqrt(0.17), 0.4 / 3
    wanted = -0.8 * math.log((1 + cos) / 2) + 3 * 0.9 * moved
    assert objective._losses(edited, source, torch.tensor([0])).item() == pytest.approx(wanted, abs=1e-5)


def test_the_corrected_loss_by_hand(v_model, codes):
    config = RECIPES["corrected"].objective
    objective = ShiftObjective(v_model, shift_for(v_model), codes, goal(), config, signs=torch.tensor([1.0, -1, 1, 1]))
    plain = torch.zeros(1, 3, 16, 16)
    edited = plain + torch.tensor([0.3, 0.4, 0.0]).view(1, 3, 1, 1)
    source = directional.Sources(plain[:, None], torch.zeros(1, 1, 3))
    moved = config.reconstruction_weight * 0.9 * 0.7 / 3

    def loss(row):
        return objective._losses(edited, source, torch.tensor([row])).item()

    assert loss(0) == pytest.approx((1 - 0.6) + (1 - 0.3 / 0.5) + moved, abs=1e-5)
    assert loss(1) == pytest.approx((1 + 0.6) + (1 + 0.3 / 0.5) + moved, abs=1e-5)  # the other way is asked for
    objective.goal = replace(objective.goal, reach=0.2)  # too far is as wrong as not far enough
    assert loss(0) == pytest.approx((1 - 0.6) + (0.3 / 0.2 - 1) + moved, abs=1e-5)


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize(("mode", "gain"), [("symmetric", 1.0), ("symmetric", 2.5), ("asymmetric", 1.0)])
def test_the_losses_are_those_of_the_process_written_out(v_model, codes, mode, gain, carried):
    """Two images, three of the six timesteps: everything in plain words, without our engine; the shift is signed."""
    levels = codes.timesteps
    config = DirectionalObjective.Config(mode=mode, gain=gain, t_edit=levels[2])
    shift, signs = shift_for(v_model), torch.tensor([-1.0, 1.0, 1.0, 1.0])
    noise = codes.noise if carried else Noise(x_T=codes.noise.x_T)
    objective = ShiftObjective(v_model, shift, replace(codes, noise=noise), goal(), config, signs=signs)
    found = losses(objective, 2, 0)
    alphas = [v_model.schedule.alphas_cumprod[int(t)].sqrt() for t in levels]
    sigmas = [(1 - alpha**2).sqrt() for alpha in alphas]
    u = [sigma / alpha for alpha, sigma in zip(alphas, sigmas, strict=True)]
    sign = signs[[2, 0]].view(-1, 1, 1, 1)

    def answer(x, i, dh):
        t = torch.full((len(x),), levels[i])
        h, context = v_model.unet.down(x.float(), t, Condition())
        v = v_model.unet.up(h + dh(h, t), context).double()
        return alphas[i] * x - sigmas[i] * v, alphas[i] * v + sigmas[i] * x

    def onward(i, states, x0, eps):
        """Back to x / alpha, an Euler step of DDIM or one of O-BELM, and what the edit did to x0 alone."""
        r = (u[i] - u[i + 1]) / (u[i - 1] - u[i]) if carried and i > 0 else 0
        here = states[-1] / alphas[i]
        kept = r**2 * states[-2] / alphas[i - 1] + (1 - r**2) * here if i > 0 else here
        jump = x0 + u[i] * eps - here
        x = alphas[i + 1] * (kept + jump - (1 + r) * (u[i] - u[i + 1]) * eps)
        return x + noise.carry[[2, 0]] if carried and i == 0 else x

    wanted = []
    with torch.no_grad():
        walk, plainly = ([codes.noise.x_T[[2, 0]].double()] for _ in range(2))
        for i in range(3):
            plain = answer(walk[-1], i, lambda h, t: 0)
            shifted = answer(walk[-1], i, lambda h, t: sign * shift(h, t))
            truth = answer(plainly[-1], i, lambda h, t: 0)
            change = (colours(shifted[0]) - colours(truth[0])) * sign[:, :, 0, 0]
            cos = change[:, 0] / change.norm(dim=1)
            off = (1 - change[:, 0] / 0.5).abs()
            moved = (shifted[0] - truth[0]).abs().mean(dim=(1, 2, 3))
            wanted.append(float((1 - cos + off + 2.7 * moved).mean()))
            x0, eps = (p + gain * (s - p) for p, s in zip(plain, shifted, strict=True))
            walk.append(onward(i, walk, x0, plain[1] if mode == "asymmetric" else eps))
            plainly.append(onward(i, plainly, *truth))
    assert found == pytest.approx(wanted, rel=1e-3)


def test_the_plain_process_ends_in_the_images(v_model, codes, images):
    """As codes of the exact codec do, and not those of x_T alone."""
    config = DirectionalObjective.Config()
    objective = ShiftObjective(v_model, shift_for(v_model), codes, goal(), config)
    everything = torch.arange(4)
    torch.testing.assert_close(objective._ahead(everything, 6).x, images, atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_into_memory_is_walked_again(v_model, codes, monkeypatch):
    kept = losses(ShiftObjective(v_model, shift_for(v_model), codes, goal(), DirectionalObjective.Config()), 1, 3)
    monkeypatch.setattr(directional, "KEPT_BYTES", 0)
    objective = ShiftObjective(v_model, shift_for(v_model), codes, goal(), DirectionalObjective.Config())
    assert objective._kept is None
    assert losses(objective, 1, 3) == pytest.approx(kept, rel=1e-4)
    assert len(kept) == 6


def test_an_edit_may_begin_below_the_noisiest_level(v_model, codes):
    """As DiffusionCLIP's does: before t_start the process is the plain one."""
    levels = codes.timesteps
    config = DirectionalObjective.Config(t_start=levels[2], t_edit=levels[3])
    objective = TuningObjective(v_model, v_model.unet, codes, goal(), config)
    assert objective.nodes == [2, 3]
    plain, edited = objective.ends(v_model.unet, torch.arange(4))  # the weights are still the model's own
    torch.testing.assert_close(plain, edited, atol=1e-5, rtol=1e-5)
    longer = ShiftObjective(v_model, shift_for(v_model), codes, goal(), DirectionalObjective.Config(t_edit=levels[3]))
    torch.testing.assert_close(plain, longer._sources(torch.arange(4)).x0[:, -1], atol=1e-5, rtol=1e-5)


def test_only_what_is_trained_has_a_gradient(v_model, codes):
    shift = shift_for(v_model)
    objective = ShiftObjective(v_model, shift, codes, goal(), DirectionalObjective.Config())
    phase = next(objective.phases(batch(0), objective.networks))
    phase.loss.backward()
    assert float(shift.net.conv_out.weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in objective.model.parameters())
    assert all(parameter.requires_grad for parameter in v_model.parameters())


def test_what_makes_no_sense(v_model, codes, images):
    shift, config = shift_for(v_model), DirectionalObjective.Config()
    with pytest.raises(ZsemError, match="no noise level lies at or above t_edit"):
        ShiftObjective(v_model, shift, codes, goal(), replace(config, t_edit=1e6))
    with pytest.raises(ValueError, match="codes with noise"):
        ShiftObjective(v_model, shift, replace(codes, noise=None), goal(), config)
    with pytest.raises(ValueError, match="the original of every code"):
        ShiftObjective(v_model, shift, codes, goal(), replace(config, source="image"), images=images[:2])
    tuning = TuningObjective(v_model, v_model.unet, codes, goal(), replace(config, mode="asymmetric"))
    with pytest.raises(ValueError, match="symmetric mode"):
        losses(tuning, 0)


def test_the_published_inversion_goes_up_the_levels_and_back(v_model, images):
    """int(linspace(0, 1, 40) * 999), 39 Euler steps in sigma / alpha; down the same levels the image comes back."""
    found = invert_as_published(v_model, images[:2], steps=40)
    levels = [int(999 * i / 39) for i in range(40)]
    assert list(found.timesteps) == levels[::-1]
    abar = v_model.schedule.alphas_cumprod
    x = images[:2].double()
    with torch.no_grad():
        for i, j in itertools.pairwise(levels):
            eps = v_model.denoiser(x, torch.full((2,), float(i)), Condition()).eps
            x = abar[j].sqrt() * (x - (1 - abar[i]).sqrt() * eps) / abar[i].sqrt() + (1 - abar[j]).sqrt() * eps
    torch.testing.assert_close(found.noise.x_T, x.float(), atol=1e-4, rtol=1e-4)
    assert float((v_model.decode(found) - images[:2]).abs().mean()) < 0.2
