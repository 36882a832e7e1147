"""The models that zsem comes with, as users get them: by name, offline, small, and as good as their cards say."""

import re

import pytest
import torch

import zsem
from zsem.data import builtin
from zsem.data.images import load_images
from zsem.data.pixels import to_uint8
from zsem.models.base import ASSETS, packaged_models


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Eight faces that no model was trained on."""
    return builtin.avatars(tmp_path_factory.mktemp("faces") / "set", number=8, size=64, seed=1, workers=1)


@pytest.mark.parametrize("name", packaged_models())
def test_a_model_is_small_and_has_a_card_of_its_own_weights(name):
    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) < 25e6
    model = zsem.load(name)
    assert f"`{model.stamp}`" in (ASSETS / name / "README.md").read_text()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_autoencoder_gives_faces_back_and_its_z_says_what_they_show(faces):
    model = zsem.load("avatars-64")
    images = load_images(faces, size=64).pixels
    codes = model.encode(images[:3])
    assert torch.equal(to_uint8(model.decode(codes)), images[:3])
    # z of the same face from other noise: what is drawn from z alone shows the face that it came from
    drawn = to_uint8(model.decode(model.vary(codes))).float()
    errors = (drawn[:, None] - images[:3].float()).square().mean(dim=(2, 3, 4))
    assert errors.argmin(dim=1).tolist() == [0, 1, 2]
    assert errors.diagonal().max() < errors[~torch.eye(3, dtype=torch.bool)].min() / 2


def test_every_model_has_its_licences_in_its_card():
    for name in packaged_models():
        text = (ASSETS / name / "README.md").read_text()
        assert re.search(r"^license: mit$", text, re.MULTILINE) and "Pablo Stanley" in text
