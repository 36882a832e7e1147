"""What images are guided by: closeness in content and style against plain computations, and what guidance does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zsem.data.images import load_images
from zsem.data.pixels import from_uint8, save_png
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.scalars import clip_similarity, content, style
from zsem.nets.clip import CLIP
from zsem.values.errors import ZsemError


@pytest.fixture(scope="module")
def autoencoder(small_model, image_folder):
    """A model that knows the deviations of its z, as after a training."""
    model = DiffusionAutoencoder(small_model.config)
    model.load_state_dict(small_model.state_dict())
    model.z_std.copy_(model.encode(image_folder, noise=False).z.std(dim=0))
    return model.eval()


@pytest.fixture(scope="module")
def pixels(image_folder):
    return load_images(image_folder, size=16).pixels[:5]


@pytest.fixture(scope="module")
def unguided(random_diffusion):
    return random_diffusion(16, seed=1, num_res_blocks=2, attention_resolutions=(8,))


def test_content_is_the_distance_of_normalised_codes(autoencoder, pixels):
    scalar = content(autoencoder, pixels[:1])
    with torch.no_grad():
        found = scalar(from_uint8(pixels))
    z = autoencoder.encode(pixels, noise=False).z / autoencoder.z_std
    torch.testing.assert_close(found, -(z - z[0]).square().sum(dim=1) / 8, atol=1e-4, rtol=1e-3)
    assert float(found[0]) == pytest.approx(0, abs=1e-4) and float(found[1:].max()) < -0.1


@pytest.mark.parametrize("levels", [1, 2])
def test_style_is_the_distance_of_gram_matrices(autoencoder, pixels, levels):
    encoder, maps = autoencoder.encoder, []
    # two levels: a block, one that halves, a block; then the middle
    hooks = [encoder.layers[i].register_forward_hook(lambda *args: maps.append(args[2])) for i in (0, 2)[:levels]]
    with torch.no_grad():
        encoder(from_uint8(pixels))
        for hook in hooks:
            hook.remove()
        found = style(autoencoder, pixels[:1], levels=levels)(from_uint8(pixels))
    wanted = torch.zeros(5)
    for h in maps:
        grams = torch.einsum("bchw,bdhw->bcd", h, h)
        wanted -= torch.stack([((g - grams[0]) ** 2).sum() / (grams[0] ** 2).sum() for g in grams]) / levels
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert float(found[0]) == pytest.approx(0, abs=1e-6) and float(found[1:].max()) < -1e-4


def test_style_does_not_ask_where(autoencoder, pixels):
    """Mirrored top to bottom an image is of nearly the same style, and not of the same content."""
    images = from_uint8(torch.cat([pixels[:2], pixels[:1].flip(2)]))
    with torch.no_grad():
        other, mirrored = style(autoencoder, pixels[:1])(images)[1:].tolist()
        assert 10 * mirrored > other
        assert float(content(autoencoder, pixels[:1])(images)[2]) < -1e-3


def test_images_of_another_size_and_files(autoencoder, pixels, tmp_path):
    path = save_png(pixels[0], tmp_path / "a.png")
    large = F.interpolate(from_uint8(pixels), size=(48, 32), mode="bilinear")
    for make in (content, style):
        with torch.no_grad():
            values = make(autoencoder, path)(large)
            assert int(values.argmax()) == 0
            torch.testing.assert_close(make(autoencoder, pixels[:1])(large), values)


def test_what_cannot_be_compared_with(autoencoder, pixels):
    for make in (content, style):
        with pytest.raises(ZsemError, match="with one image, not with 5"):
            make(autoencoder, pixels)
        with pytest.raises(ZsemError, match="3 channels, these have 1"):
            make(autoencoder, pixels[:1])(torch.zeros(1, 1, 16, 16))
    for levels in (0, 3):
        with pytest.raises(ZsemError, match=r"levels 1\.\.2"):
            style(autoencoder, pixels[:1], levels=levels)
    for given in ({}, {"text": "a cat", "image": pixels[:1]}):
        with pytest.raises(ValueError, match="a text or an image"):
            clip_similarity("nowhere", **given)
    with pytest.raises(ZsemError, match="nowhere holds no CLIP model"):
        clip_similarity("nowhere", text="a cat")


@pytest.fixture(scope="module")
def clip():
    """A CLIP of random weights that knows two words."""
    from transformers import BatchEncoding, CLIPConfig, CLIPModel

    net = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**net, "vocab_size": 8, "eos_token_id": 7, "bos_token_id": 6, "max_position_embeddings": 8},
        vision_config={**net, "image_size": 16, "patch_size": 4}, projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)

    def tokenizer(texts, return_tensors):
        ids = torch.tensor([[6, {"cat": 1, "dog": 2}[text], 7] for text in texts])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    return CLIP(model, tokenizer)


def test_clip_compares_with_a_text_or_an_image(clip, pixels):
    images = from_uint8(pixels)
    with torch.no_grad():
        like = clip_similarity(clip, image=pixels[2:3])(images)
        cat, dog = (clip_similarity(clip, text=text)(images) for text in ("cat", "dog"))
        embedded = clip(images)
    torch.testing.assert_close(like, embedded @ embedded[2])
    assert int(like.argmax()) == 2 and float(like[2]) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(cat, embedded @ clip.text("cat"))
    assert not torch.allclose(cat, dog, atol=1e-3)
    with pytest.raises(ZsemError, match="with one image, not with 5"):
        clip_similarity(clip, image=pixels)


@pytest.mark.parametrize("name", ["content", "style", "clip"])
def test_samples_come_closer_to_what_guides_them(unguided, autoencoder, clip, pixels, name):
    scalar = {
        "content": lambda: content(autoencoder, pixels[:1]),
        "style": lambda: style(autoencoder, pixels[:1]),
        "clip": lambda: clip_similarity(clip, text="cat"),
    }[name]()
    options = {"steps": 6, "scalars_normalised": True}
    found = []
    for weight in (0.0, 0.05, 0.2):
        with torch.no_grad():
            found.append(scalar(unguided.sample(2, scalars=[(weight, scalar)], **options)))
    assert bool((found[0] < found[1]).all() and (found[1] < found[2]).all())


def test_a_padded_model_is_guided_by_what_is_inside(unguided, autoencoder, pixels):
    """15 x 13 pixels that the networks see as 16 x 14: the scalar never sees the rest."""
    model = DiffusionModel(replace(unguided.config, image_size=(15, 13)))
    model.load_state_dict(unguided.state_dict())
    shapes, scalar = set(), content(autoencoder, pixels[:1])

    def watched(x0):
        shapes.add(tuple(x0.shape))
        return scalar(x0)

    made = model.eval().sample(2, scalars=[(1.0, watched)], steps=2)
    assert shapes == {(2, 3, 15, 13)} and made.shape == (2, 3, 15, 13)
