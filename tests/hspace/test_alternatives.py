"""Other ways to edit: what each leaves alone when it is asked for nothing, and what it does when it is asked."""

import pytest
import torch
import torch.nn.functional as F

from zsem.diffusion.denoiser import bind
from zsem.hspace.alternatives import (
    LowPass,
    Replaced,
    Target,
    classifier_guided,
    lowpass,
    lowpass_guided,
    sdedit,
    towards_mean,
    tuned,
)
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import UNet
from zsem.values.draws import normal
from zsem.values.errors import ZsemError


@pytest.fixture(scope="module")
def v_model(random_model):
    return random_model(prediction="v")


@pytest.fixture(scope="module")
def images():
    return normal([(5, i) for i in range(3)], (3, 16, 16)).tanh()


def redness(x0):
    return x0[:, 0].mean(dim=(1, 2))


def test_sdedit_begins_at_the_image_and_ends_at_a_sample(v_model, images):
    assert torch.equal(sdedit(v_model, images, Target(), t0=0), images)
    near, far = (sdedit(v_model, images, Target(), t0=t0, steps=5, seed=1) for t0 in (5, 900))
    assert float((near - images).abs().mean()) < 0.3 * float((far - images).abs().mean())
    # each image's noise is its own, whatever the batch
    torch.testing.assert_close(
        sdedit(v_model, images, Target(), t0=900, steps=5, seed=1, batch_size=2), far, atol=1e-4, rtol=1e-4
    )
    guided = sdedit(v_model, images, Target(guides=images.flip(0)), t0=5, steps=5, seed=1)
    assert float((guided - images.flip(0)).abs().mean()) < float((guided - images).abs().mean())


def test_sdedit_is_its_algorithm(v_model, images):
    """Noise to t0, then the solver's steps: here DDIM with one level, which is the predicted x0."""
    t0 = 400
    alpha = v_model.schedule.alphas_cumprod[t0].sqrt()
    x = alpha * images[:1].double() + (1 - alpha**2).sqrt() * normal([(7, 0)], (3, 16, 16)).double()
    with torch.no_grad():
        wanted = bind(v_model.denoiser, v_model.condition(None, 1))(x, torch.full((1,), 400.0)).x0
    found = sdedit(v_model, images[:1], Target(), t0=t0, steps=1, solver="ddim", seed=7)
    torch.testing.assert_close(found, wanted.float(), atol=1e-4, rtol=1e-4)


def test_sdedit_makes_what_a_conditional_model_is_told(random_model, images):
    model = random_model(prediction="v", num_classes=2)
    made = [sdedit(model, images, Target(), t0=900, steps=4, classes=k) for k in (0, 1)]
    assert not torch.allclose(*made, atol=1e-3)
    mixed = sdedit(model, images, Target(), t0=900, steps=4, classes=[0, 1, 0], batch_size=2)
    torch.testing.assert_close(mixed[1], made[1][1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ZsemError, match="conditional on classes"):
        sdedit(model, images, Target(), t0=900)


@pytest.mark.parametrize("solver", ["unipc", "ddim", "ddpm"])
def test_the_low_pass_of_the_guides_is_kept(v_model, images, solver):
    found = lowpass_guided(v_model, images, Target(), factor=4, solver=solver, steps=6)
    torch.testing.assert_close(F.avg_pool2d(found, 4), F.avg_pool2d(images, 4), atol=1e-4, rtol=1e-4)
    assert float((found - images).abs().mean()) > 0.05  # and all else is the model's
    other = lowpass_guided(v_model, images, Target(), factor=4, solver=solver, steps=6, seed=1)
    assert float((found - other).abs().mean()) > 0.01


def test_guided_predictions_are_consistent(v_model, images):
    guided = LowPass(bind(v_model.denoiser, v_model.condition(None, 3)), images, 8, interval=(100, 999))
    x, t = normal([(8, i) for i in range(3)], (3, 16, 16)).double(), torch.tensor([50.0, 100.0, 700.0])
    with torch.no_grad():
        found = guided(x, t)
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in v_model.schedule.level(t))
    torch.testing.assert_close(alpha * found.x0 + sigma * found.eps, x, atol=1e-5, rtol=1e-5)
    met = (lowpass(found.x0, 8) - lowpass(images.double(), 8)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert met.tolist() == [False, True, True]  # the first is outside the interval


def test_classifier_guidance_of_scale_0_gives_the_images_back(v_model, images):
    target = Target(scalar=redness)
    same = classifier_guided(v_model, images, target, scale=0, steps=6)
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)
    redder = classifier_guided(v_model, images, target, scale=1.0, normalise=True, steps=6)
    assert bool((redness(redder) > redness(images) + 0.01).all())
    bluer = classifier_guided(v_model, images, target, scale=-1.0, normalise=True, steps=6)
    assert bool((redness(bluer) < redness(images) - 0.01).all())


def test_a_classifier_of_noisy_images_guides(v_model, images):
    net = UNet.Config(channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), embed_channels=32)
    torch.manual_seed(0)
    classifier = NoisyClassifier(NoisyClassifier.Config(num_outputs=2, image_size=16, net=net)).eval()
    logits = []
    for label in (0, 1):
        target = Target(classifier=classifier, label=label)
        made = classifier_guided(v_model, images, target, scale=20.0, steps=6, batch_size=2)
        with torch.no_grad():
            logits.append(classifier(made, torch.zeros(3)).diff(dim=1)[:, 0])
    assert bool((logits[1] > logits[0]).all())


def test_new_weights_are_extrapolated_to(v_model, random_model, images):
    """In every step eps + gain (eps of the new weights - eps), below t_start; nothing at a gain of 0."""
    other = random_model(prediction="v")
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.02)
    x, t, cond = images, torch.full((3,), 400.0), v_model.condition(None, 3)
    plain, new = (model.denoiser(x, t, cond).eps for model in (v_model, other))
    replaced = Replaced(v_model.denoiser, other.denoiser, (0.0, 500.0), 2.5)
    torch.testing.assert_close(replaced(x, t, cond).eps, plain + 2.5 * (new - plain), atol=1e-4, rtol=1e-4)
    assert torch.equal(replaced(x, t + 200, cond).eps, v_model.denoiser(x, t + 200, cond).eps)
    one, many, none = (tuned(v_model, images, Target(model=other), gain=gain, steps=5) for gain in (1, 3, 0))
    torch.testing.assert_close(none, images, atol=1e-4, rtol=0)
    assert float((many - images).abs().mean()) > 2 * float((one - images).abs().mean()) > 0


def test_what_a_method_needs_is_asked_for(v_model, images):
    for make, settings in ((classifier_guided, {}), (tuned, {})):
        with pytest.raises(ZsemError, match="one"):
            make(v_model, images, Target(), **settings)
    with pytest.raises(ZsemError, match="one guide of its size"):
        sdedit(v_model, images, Target(guides=images[:1]), t0=9)
    with pytest.raises(ZsemError, match=r"0\.\.999"):
        sdedit(v_model, images, Target(), t0=1000)
    with pytest.raises(ZsemError, match="no solver 'euler'"):
        sdedit(v_model, images, Target(), t0=9, solver="euler")
    with pytest.raises(ZsemError, match="must divide"):
        lowpass_guided(v_model, images, Target(), factor=5)
    small = DiffusionModel(DiffusionModel.Config(image_size=8, unet=v_model.config.unet))
    with pytest.raises(ZsemError, match="same architecture"):
        tuned(v_model, images, Target(model=small))


def test_the_guide_that_nobody_paints(images):
    guide = towards_mean(images, images[:1], images[1:2])
    torch.testing.assert_close(guide[0], images[1].clamp(-1, 1))
