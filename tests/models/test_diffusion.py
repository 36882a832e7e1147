"""Plain diffusion models, the noisy classifier and the latent DDIM: sampled, inverted, saved, refused."""

from dataclasses import replace

import pytest
import torch

from zsem.models.base import Model
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.models.prior import LatentDiffusion
from zsem.nets.latent import LatentNet
from zsem.nets.unet import HalfUNet, UNet
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError

SMALL = UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=32)
PLAIN = DiffusionModel.Config(image_size=16, unet=SMALL)


def awake(model):
    """No layer silent."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def plain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return awake(DiffusionModel(PLAIN))


@pytest.fixture(scope="module")
def with_classes():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return awake(DiffusionModel(replace(PLAIN, learned_range=True, unet=replace(SMALL, num_classes=3))))


@pytest.mark.parametrize("solver", ["unipc", "dpmpp_2m", "heun", "ddim", "ddpm"])
def test_a_sample_depends_on_seed_and_position_alone(plain, solver):
    settings = {"solver": solver, "steps": 6, "seed": 5}
    together = plain.sample(5, batch_size=5, **settings)
    assert together.shape == (5, 3, 16, 16)
    assert torch.isfinite(together).all()
    torch.testing.assert_close(plain.sample(3, batch_size=2, **settings), together[:3], atol=1e-5, rtol=0)
    assert not torch.allclose(plain.sample(1, **{**settings, "seed": 6}), together[:1], atol=1e-2)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_clipping_keeps_every_prediction_of_x0_inside(plain):
    x = plain.sample(2, solver="ddim", steps=4)
    assert x.abs().max() <= 1 + 1e-6  # the last step leaves x0
    assert plain.sample(2, solver="ddim", steps=4, clip=False).abs().max() > 1


def test_images_survive_inversion(plain, tmp_path):
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    codes = plain.invert(images)
    assert codes.z.shape == (3, 0)
    loaded = Codes.load(codes.save(tmp_path / "codes.parquet"))
    assert loaded.z.shape == (3, 0)
    decoded = plain.decode(loaded)
    assert ((decoded - (images / 127.5 - 1)) / 2).square().mean() < 1e-10


def test_a_sigma_data_changes_the_prediction_and_is_kept(plain, tmp_path):
    model = DiffusionModel(replace(PLAIN, sigma_data=0.1))
    model.load_state_dict(plain.state_dict())
    made, plainly = (one.sample(2, steps=3) for one in (model, plain))
    assert not torch.allclose(made, plainly, atol=1e-2)
    assert torch.equal(Model.from_pretrained(model.save(tmp_path)).sample(2, steps=3), made)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.testing.assert_close(model.decode(model.invert(images)), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sigma_data": 0.0}, "sigma_data must be above 0, not 0"),
        ({"sigma_data": 0.1, "prediction": "eps"}, "sigma_data 0.1 is for prediction v: set it to 1 for eps"),
    ],
)
def test_a_sigma_data_that_cannot_be(changes, sentence):
    with pytest.raises(ZsemError, match=sentence):
        DiffusionModel(replace(PLAIN, **changes))


def test_classes_reach_the_network(with_classes):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    codes = with_classes.invert(images, classes=[0, 2], batch_size=1)
    torch.testing.assert_close(with_classes.decode(codes, classes=[0, 2]), images, atol=1e-5, rtol=0)
    assert not torch.allclose(with_classes.decode(codes, classes=1), images, atol=1e-3)
    a, b = (with_classes.sample(1, classes=k, steps=4) for k in (0, 1))
    assert not torch.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("classes", [None, 3, [0], [0, -1], torch.tensor([0, 3])])
def test_classes_that_do_not_exist(with_classes, classes):
    with pytest.raises(ZsemError, match="classes"):
        with_classes.sample(2, classes=classes)


def test_no_classes_for_an_unconditional_model(plain):
    with pytest.raises(ZsemError, match="unconditional"):
        plain.sample(1, classes=0)
    with pytest.raises(ZsemError, match="unipc"):
        plain.sample(1, solver="euler")


def test_every_kind_is_loaded_by_its_folder_alone(with_classes, tmp_path):
    classifier = awake(
        NoisyClassifier(
            NoisyClassifier.Config(
                image_size=16, num_outputs=4, net=HalfUNet.Config(channels=16, channel_mult=(1, 2), embed_channels=32)
            )
        )
    )
    prior = awake(LatentDiffusion(LatentDiffusion.Config(z_dim=6, net=LatentNet.Config(layers=3, hidden=16))))
    prior.z_mean += 2
    for model in (with_classes, classifier, prior):
        again = Model.from_pretrained(model.save(tmp_path / model.kind))
        assert type(again) is type(model)
        assert again.config == model.config
        assert again.stamp == model.stamp
    x_t, t = torch.randn(3, 3, 16, 16), torch.tensor([0.0, 500.0, 999.0])
    logits = classifier(x_t, t)
    assert logits.shape == (3, 4)
    assert not torch.allclose(logits, classifier(x_t, t.flip(0)), atol=1e-4)  # it is told the time
    with pytest.raises(ZsemError, match="DiffusionModel is wanted"):
        DiffusionModel.from_pretrained(tmp_path / "classifier")
    again = Model.from_pretrained(tmp_path / "latent_diffusion")
    assert isinstance(again, LatentDiffusion)
    codes = again.sample(4, steps=10, seed=1)
    assert codes.shape == (4, 6)
    torch.testing.assert_close(again.sample(2, steps=10, seed=1), codes[:2], atol=1e-5, rtol=1e-5)


def test_the_latent_ddim_undoes_the_normalisation():
    """A network that answers 0 leaves DDIM at x_T / alpha_T, which is known in closed form."""
    prior = LatentDiffusion(LatentDiffusion.Config(z_dim=4, net=LatentNet.Config(layers=3, hidden=8)))
    with torch.no_grad():
        for parameter in prior.net.layers[-1].parameters():
            parameter.zero_()
    noise = prior.sample(3, steps=7, seed=2)
    prior.z_mean.fill_(10.0)
    prior.z_std.fill_(3.0)
    torch.testing.assert_close(prior.sample(3, steps=7, seed=2), 3 * noise + 10)
    alpha = prior.schedule.alphas_cumprod[-1].sqrt()
    assert abs(float(noise.std() * alpha) - 1) < 0.6
