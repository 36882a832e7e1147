"""How a classifier of noisy images is taught, and what its configuration may be."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zsem.data.batches import Batches
from zsem.data.intensity import full_range
from zsem.models.classifier import ClassifierObjective, NoisyClassifier
from zsem.nets.unet import HalfUNet
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch

CONFIG = NoisyClassifier.Config(
    image_size=8, image_channels=1, num_outputs=3,
    net=HalfUNet.Config(channels=16, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=16),
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NoisyClassifier(CONFIG)


def batch(classes):
    images = torch.randint(
        0, 256, (len(classes), 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Batch(images=images, classes=torch.tensor(classes), names=[(1, 2, i) for i in range(len(classes))])


def taught(model, *parts, **settings):
    """The loss of parts of a batch, what the network was shown, and its gradient."""
    shown = []
    handle = model.register_forward_pre_hook(lambda _, args: shown.append(args))
    objective = ClassifierObjective(model, ClassifierObjective.Config(**settings))
    model.zero_grad()
    total, images = 0.0, sum(len(part.names) for part in parts)
    for part in parts:
        (phase,) = objective.phases(part, objective.networks)
        assert phase.optimiser in objective.networks
        (phase.loss * len(part.names) / images).backward()
        total += phase.loss.item() * len(part.names) / images
    handle.remove()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return total, shown, gradient


@pytest.mark.parametrize("timesteps", ["stratified", "uniform"])
def test_the_loss_is_the_cross_entropy_of_images_with_noise(model, timesteps):
    whole = batch([0, 2, 1, 1, 0, 2])
    loss, [(x_t, t)], _ = taught(model, whole, timesteps=timesteps)
    bar = model.schedule.alphas_cumprod[t.long()].float()[:, None, None, None]
    noise = (x_t - bar.sqrt() * (whole.images / 127.5 - 1)) / (1 - bar).sqrt()
    assert abs(float(noise.mean())) < 0.2 and abs(float(noise.std()) - 1) < 0.1
    assert len(set(t.tolist())) == 6
    with torch.no_grad():
        assert loss == pytest.approx(float(F.cross_entropy(model(x_t, t), whole.classes)), rel=1e-5)


def test_images_of_unknown_class_are_left_out_of_the_mean(model):
    some = batch([-1, 2, 1, -1, 0, -1, -1])
    loss, [(x_t, t)], gradient = taught(model, some)
    known = some.classes >= 0
    with torch.no_grad():
        assert loss == pytest.approx(float(F.cross_entropy(model(x_t[known], t[known]), some.classes[known])), rel=1e-5)
    in_parts = taught(model, *some.parts(3))  # with two, one and no known image
    assert in_parts[0] == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(in_parts[2], gradient, atol=1e-6, rtol=1e-4)
    nothing, _, gradient = taught(model, batch([-1, -1]))
    assert nothing == 0 and not gradient.any()


def test_the_mean_is_over_the_images_of_all_processes(model, labelled_discs):
    images = replace(
        labelled_discs.subset(range(12)), class_names=["a", "b"], classes=torch.tensor([0, -1, 1, 1, -1, 0] * 2)
    )
    grey = replace(images, pixels=images.pixels[:, :1, ::2, ::2].contiguous())
    loss, _, gradient = taught(model, Batches(grey, batch_size=12).batch(0))
    ranks = [Batches(grey, batch_size=12, rank=rank, world_size=3).batch(0) for rank in range(3)]
    assert len({part.known for part in ranks}) == 1
    shared = taught(model, *ranks)
    assert shared[0] == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(shared[2], gradient, atol=1e-6, rtol=1e-4)


def test_images_without_classes_are_refused(model):
    objective = ClassifierObjective(model, ClassifierObjective.Config())
    with pytest.raises(ZsemError, match="images have none"):
        next(objective.phases(replace(batch([0]), classes=None), objective.networks))
    with pytest.raises(ZsemError, match="3 classes"):
        next(objective.phases(batch([0, 3]), objective.networks))
    with pytest.raises(ZsemError, match="class_names"):
        NoisyClassifier(replace(CONFIG, class_names=("cat", "dog")))
    with pytest.raises(ZsemError, match="say num_outputs"):
        NoisyClassifier(replace(CONFIG, net=replace(CONFIG.net, num_classes=3)))


def test_images_of_any_shape_and_depth(tmp_path):
    config = replace(
        CONFIG, image_size=(8, 12), image_channels=2, intensity=full_range("uint16"), class_names=("a", "b", "c"),
        net=replace(CONFIG.net, channel_mult=(1, 2)),
    )  # fmt: skip
    model = NoisyClassifier(config)
    pixels = torch.full((2, 2, 8, 12), 65535, dtype=torch.uint16)
    part = Batch(images=pixels, classes=torch.tensor([0, 2]), names=[(0, 0, 0), (0, 0, 1)])
    loss, [(x_t, _)], _ = taught(model, part)
    assert x_t.shape == (2, 2, 8, 12) and 0 < loss < 10
    assert bool((model.prepare(pixels) == 1).all())
    again = NoisyClassifier.from_pretrained(model.save(tmp_path / "model"))
    assert again.config == config
    with pytest.raises(ZsemError, match="uint16"):
        model.read(torch.zeros(1, 2, 8, 12, dtype=torch.uint8))
