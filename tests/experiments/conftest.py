"""What the tests of experiments share."""

import copy

import pytest
import torch

from zsem.models.autoencoder import DiffusionAutoencoder


@pytest.fixture(scope="module")
def model(small_model) -> DiffusionAutoencoder:
    """A model whose pictures depend on z, as those of trained ones do."""
    model = copy.deepcopy(small_model)
    with torch.no_grad():
        model.encoder.project.weight.mul_(30)
        for name, parameter in model.unet.named_parameters():
            if "embed_z" in name:
                parameter.mul_(10)
    return model
