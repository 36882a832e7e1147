"""What says which way an edit goes: every kind of embedding against plain computations, and its gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from zsem.data.images import load_images
from zsem.data.pixels import from_uint8
from zsem.hspace.embeddings import (
    ClassifierEmbedding,
    Embedding,
    ZEmbedding,
    towards_attribute,
    towards_class,
    towards_images,
    towards_text,
)
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.classifier import NoisyClassifier
from zsem.models.judge import Judge
from zsem.nets.clip import CLIP
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.semantics.attributes import learn
from zsem.values.errors import ZsemError

NET = SemanticEncoder.Config(channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool=2)


@pytest.fixture(scope="module")
def pixels(image_folder):
    return from_uint8(load_images(image_folder, size=16).pixels)


@pytest.fixture(scope="module")
def autoencoder(small_model, image_folder):
    model = DiffusionAutoencoder(small_model.config)
    model.load_state_dict(small_model.state_dict())
    z = model.encode(image_folder, noise=False).z
    model.z_mean.copy_(z.mean(dim=0))
    model.z_std.copy_(z.std(dim=0))
    return model.eval()


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    return Judge(Judge.Config(attributes=("hat", "smile"), image_size=16, net=NET)).eval()


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    net = UNet.Config(channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), embed_channels=32)
    config = NoisyClassifier.Config(num_outputs=3, class_names=("a", "b", "c"), image_size=16, net=net)
    return NoisyClassifier(config).eval()


@pytest.fixture(scope="module")
def clip():
    """A CLIP of random weights that knows some words."""
    from transformers import BatchEncoding, CLIPConfig, CLIPModel

    net = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**net, "vocab_size": 64, "eos_token_id": 63, "bos_token_id": 62, "max_position_embeddings": 16},
        vision_config={**net, "image_size": 16, "patch_size": 4}, projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config)

    def tokenizer(texts, return_tensors):
        ids = torch.tensor([[62, *(sum(map(ord, word)) % 61 for word in text.split()), 63] for text in texts])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    return CLIP(model, tokenizer)


def test_a_probe_in_anothers_z(autoencoder, image_folder, pixels):
    z = autoencoder.encode(image_folder, noise=False).z
    torch.manual_seed(1)
    codes = torch.randn(80, z.shape[1]) * autoencoder.z_std + autoencoder.z_mean
    labels = ((codes - autoencoder.z_mean) / autoencoder.z_std)[:, 0] + 0.3 * torch.randn(80) > 0
    semantics = learn(codes, {"smile": labels.double().numpy()}, autoencoder)
    goal = towards_attribute(autoencoder, semantics, "smile")
    assert isinstance(goal.embedding, Embedding) and goal.name == "smile"
    torch.testing.assert_close(goal.direction, F.normalize(semantics["smile"].probe.vector, dim=0))
    assert float(goal.direction[0]) > 0.9
    with torch.no_grad():
        found = goal.embedding(pixels)
    torch.testing.assert_close(found, (z - autoencoder.z_mean) / autoencoder.z_std, atol=1e-3, rtol=1e-3)
    centres = [((codes - autoencoder.z_mean) / autoencoder.z_std)[labels == kind].mean(dim=0) for kind in (0, 1)]
    assert goal.reach == pytest.approx(float((centres[1] - centres[0]) @ goal.direction), rel=1e-3)
    other = towards_attribute(autoencoder, semantics, "smile", method="mean")
    torch.testing.assert_close(other.direction, F.normalize(centres[1] - centres[0], dim=0), atol=1e-3, rtol=1e-3)
    with pytest.raises(ZsemError, match="no attribute 'hat'"):
        towards_attribute(autoencoder, semantics, "hat")
    with pytest.raises(ZsemError, match="belong to model"):
        towards_attribute(DiffusionAutoencoder(autoencoder.config), semantics, "smile")


@pytest.mark.parametrize("name", ["autoencoder", "judge", "classifier"])
def test_images_of_any_size_have_a_gradient_and_networks_have_none(request, name, pixels):
    model = request.getfixturevalue(name)
    embedding = ZEmbedding(model) if name == "autoencoder" else ClassifierEmbedding(model)
    images = F.interpolate(pixels[:2], size=(24, 24), mode="bilinear").requires_grad_()
    embedding(images).square().sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert all(p.grad is None for p in model.parameters()) and all(p.requires_grad for p in model.parameters())
    with pytest.raises(ZsemError, match="3 channels, these have 1"):
        embedding(pixels[:, :1])


def test_the_weight_of_a_class_moves_its_logit(judge, classifier, pixels):
    """Logits are weight . feature + bias, so that the direction is their gradient."""
    goal = towards_class(judge, "smile")
    with torch.no_grad():
        features, logits = goal.embedding(pixels), judge(pixels)
    scale = judge.net.project.weight[1].norm().detach()
    offset = judge.net.project.bias[1].detach()
    torch.testing.assert_close(scale * goal.progress(features) + offset, logits[:, 1], atol=1e-4, rtol=1e-4)
    assert goal.reach is None
    for wanted, instead in (("c", "a"), (2, 0)):
        goal = towards_class(classifier, wanted, instead=instead)
        with torch.no_grad():
            features, logits = goal.embedding(pixels), classifier(pixels, torch.zeros(len(pixels)))
        weight = classifier.net.pool.project.weight
        scale = (weight[2] - weight[0]).norm().detach()
        difference = logits[:, 2] - logits[:, 0]
        spread = goal.progress(features) * scale
        torch.testing.assert_close(spread - spread.mean(), difference - difference.mean(), atol=1e-4, rtol=1e-3)
    others = towards_class(classifier, "c")
    weight = classifier.net.pool.project.weight.detach()
    torch.testing.assert_close(others.direction, F.normalize(weight[2] - weight.mean(dim=0), dim=0))
    for wanted in ("d", 3, "-1"):
        with pytest.raises(ZsemError, match="choose one of a, b, c"):
            towards_class(classifier, wanted)


def test_texts_in_clip(clip):
    goal = towards_text(clip, "face", "smiling face", name="smile", templates=("a {}", "the {} here"))
    steps = [clip.text("a smiling face") - clip.text("a face")]
    steps.append(clip.text("the smiling face here") - clip.text("the face here"))
    torch.testing.assert_close(goal.direction, F.normalize(steps[0] + steps[1], dim=0))
    assert goal.closeness == pytest.approx(float(clip.text("face") @ clip.text("smiling face")), abs=1e-6)
    assert float(towards_text(clip, "face", "smiling face").direction.norm()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ZsemError, match="the same to CLIP"):
        towards_text(clip, "face", "face")


def test_two_sets_of_images(judge, pixels):
    embedding = ClassifierEmbedding(judge)
    goal = towards_images(embedding, pixels[:3], pixels[3:5], name="hat", batch_size=2)
    with torch.no_grad():
        step = embedding(pixels[3:5]).mean(dim=0) - embedding(pixels[:3]).mean(dim=0)
    torch.testing.assert_close(goal.direction * goal.reach, step, atol=1e-5, rtol=1e-4)
    again = towards_class(judge, "hat")
    apart = float(again.progress(step[None]))
    sets = (pixels[:3], pixels[3:5]) if apart > 0 else (pixels[3:5], pixels[:3])
    assert again.measured(*sets).reach == pytest.approx(abs(apart), rel=1e-3)
    with pytest.raises(ZsemError, match="not further towards it"):
        again.measured(*sets[::-1])
    with pytest.raises(ZsemError, match="one of the two sets is empty"):
        towards_images(embedding, pixels[:0], pixels, name="hat")
    with pytest.raises(ZsemError, match="the same to this embedding"):
        towards_images(embedding, pixels[:2], pixels[:2], name="hat")
    assert math.isclose(goal.closeness, 0.9)
