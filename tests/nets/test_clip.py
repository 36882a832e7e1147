"""CLIP from a folder that transformers wrote: a tiny one with random weights and a tokenizer of single letters."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from zsem.data.pixels import from_uint8, to_pil
from zsem.nets.clip import load_clip
from zsem.values.errors import ZsemError

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As the published models are kept: config, weights, and the tokenizer's vocabulary and merges."""
    path = tmp_path_factory.mktemp("clip")
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    net = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**net, **ends, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**net, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip(folder):
    return load_clip(folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "clip")


def smooth(*shape):
    """Images without detail, which ways of resizing agree on."""
    coarse = torch.rand(*shape[:2], 4, 4, generator=torch.Generator().manual_seed(1)) * 255
    return torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("size", "resized"), [((32, 32), (32, 32)), ((64, 48), (42, 32)), ((20, 30), (32, 48))])
def test_images_are_prepared_as_published(clip, size, resized):
    """The steps of CLIP's own code, with Pillow."""
    pixels = smooth(1, 3, *size)[0]
    picture = to_pil(pixels).resize(resized[::-1], Image.Resampling.BICUBIC)
    top, left = ((side - 32) // 2 for side in resized)
    colours = np.asarray(picture.crop((left, top, left + 32, top + 32))) / 255
    wanted = (colours - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711)
    ours = clip.prepare(from_uint8(pixels)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(ours, wanted, atol=0.04)  # Pillow rounds to 8 bits twice


def test_vectors_are_those_of_the_model(clip, folder):
    model = CLIPModel.from_pretrained(folder)
    images = from_uint8(smooth(2, 3, 32, 32))
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor([[52, 17, 4, 29, 53]]), attention_mask=torch.ones(1, 5, dtype=torch.long),
            pixel_values=clip.prepare(images),
        )  # fmt: skip
        torch.testing.assert_close(clip(images), out.image_embeds)
    torch.testing.assert_close(clip.text("Red"), out.text_embeds[0])
    assert clip.text("red") @ clip.text("blue") < 0.999


def test_grey_images_and_gradients(clip):
    grey = from_uint8(smooth(1, 1, 16, 16)).requires_grad_()
    (gradient,) = torch.autograd.grad((clip(grey) @ clip.text("cat")).sum(), grey)
    assert gradient.shape == grey.shape and bool((gradient != 0).all())
    assert torch.equal(clip(grey), clip(grey.expand(-1, 3, -1, -1)))
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    with pytest.raises(ZsemError, match="4 channels"):
        clip(torch.zeros(1, 4, 32, 32))


def test_a_text_that_is_too_long(clip):
    with pytest.raises(ZsemError, match="22 tokens, and CLIP reads 12 at most"):
        clip.text("a" * 20)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "holds no CLIP model"),
        (lambda path: (path / "config.json").unlink(), "holds no CLIP model"),
        (lambda path: (path / "config.json").write_text("{"), "holds no CLIP model"),
        (lambda path: (path / "config.json").write_text('{"model_type": "bert"}'), "holds no CLIP model"),
        (lambda path: (path / "vocab.json").unlink(), "holds no CLIP model"),
        (lambda path: (path / "vocab.json").write_text("{"), "holds no CLIP model"),
        (lambda path: (path / "model.safetensors").unlink(), "cannot be read"),
        (lambda path: (path / "model.safetensors").write_bytes(b"junk"), "cannot be read"),
    ],
)
def test_folders_that_are_no_clip(copy, spoil, told):
    spoil(copy)
    with pytest.raises(ZsemError, match=told) as caught:
        load_clip(copy)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_lack_a_layer(copy):
    import safetensors.torch

    state = safetensors.torch.load_file(copy / "model.safetensors")
    del state["text_projection.weight"]
    safetensors.torch.save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ZsemError, match=r"lacks text_projection\.weight"):
        load_clip(copy)


def test_without_transformers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ZsemError, match=r"pip install 'zsem\[clip\]'"):
        load_clip(folder)
