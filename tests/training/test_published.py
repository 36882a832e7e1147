"""Published sizes against the numbers of parameters that the papers state, counted on networks without memory."""

from dataclasses import replace

import pytest
import torch

from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.training.presets import PRESETS
from zsem.training.presets.diffusion import CLASSIFIERS, DIFFUSION

MILLIONS = {  # DDPM, appendix B; ADM, table 11
    "ddpm-cifar": 35.7, "adm-64": 296, "adm-128": 422, "adm-256": 554,
}  # fmt: skip
MILLIONS_OF_CLASSIFIERS = {"adm-64": 65, "adm-128": 43, "adm-256": 54}  # ADM, table 12


def millions(kind, config) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in kind(config).parameters()) / 1e6


@pytest.mark.parametrize(("name", "stated"), MILLIONS.items())
def test_diffusion_models_have_the_published_size(name, stated):
    found = millions(DiffusionModel, DIFFUSION[name].model)
    assert round(found, 1 if stated < 100 else 0) == stated


@pytest.mark.parametrize(("name", "stated"), MILLIONS_OF_CLASSIFIERS.items())
def test_classifiers_have_the_published_size(name, stated):
    assert round(millions(NoisyClassifier, CLASSIFIERS[name].model)) == stated


def test_adm_32_is_improved_ddpm_of_cifar_but_for_heads_and_resampling():
    model = DIFFUSION["adm-32"].model
    improved = replace(model, unet=replace(model.unet, num_head_channels=None, num_heads=4, resample="conv"))
    assert round(millions(DiffusionModel, improved), 1) == 52.5  # published as cifar10_uncond_50M_500K


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_sizes_for_a_cpu(name):
    twin, classifier = DIFFUSION[name].model, CLASSIFIERS[name].model
    theirs = PRESETS["autoencoder"][name].model
    assert (twin.unet, twin.image_size, twin.prediction) == (theirs.unet, theirs.image_size, "v")
    assert classifier.image_size == twin.image_size
    assert classifier.net.patch == twin.unet.patch
    assert classifier.schedule == twin.schedule
    assert millions(NoisyClassifier, classifier) < 1.5


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_knows_the_images_and_noise_of_the_model_of_its_name(name):
    judge, model = CLASSIFIERS[name].model, DIFFUSION[name].model
    assert (judge.image_size, judge.schedule) == (model.image_size, model.schedule)
    assert model.unet.num_classes in {None, judge.num_outputs}
