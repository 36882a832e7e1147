"""Gradients of batches gone through in parts, and of stages computed twice, are those of the plain way."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from zsem.api.training import assemble
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.training.plan import Plan
from zsem.training.recompute import recompute_stages
from zsem.values.errors import ZsemError


def quiet(line: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def images(image_folder):
    return load_images(image_folder, size=16)


def first_step(images, preset, tmp_path, **settings):
    """Loss of the first iteration, and its gradient: AdamW's first moment holds (1 - beta) of it."""
    changed = replace(preset, training=replace(preset.training, batch_size=8, clip=1e9, **settings))
    loop, batches = assemble(images, Plan(preset=changed), tmp_path, quiet)
    loss = loop.step(batches, 1e-3)
    state = loop.optimisers["autoencoder"].state_dict()["state"]
    return loss, torch.cat([row["exp_avg"].flatten() for row in state.values()])


@pytest.mark.parametrize(("accumulate", "replicas"), [(2, 1), (3, 1), (8, 1), (3, 2), (8, 2)])
def test_parts_of_a_batch_add_up_to_its_gradient(images, quick_preset, tmp_path, accumulate, replicas):
    loss, gradient = first_step(images, quick_preset, tmp_path)
    in_parts = first_step(images, quick_preset, tmp_path, accumulate=accumulate, replicas=replicas)
    assert in_parts[0] == pytest.approx(loss, rel=1e-6)
    assert gradient.norm() > 1e-3
    assert (in_parts[1] - gradient).norm() < 1e-5 * gradient.norm()


def test_more_parts_than_images_are_refused(images, quick_preset, tmp_path):
    with pytest.raises(ZsemError, match="8 images cannot be gone through in 9 parts"):
        first_step(images, quick_preset, tmp_path, accumulate=9)


def with_dropout(preset):
    model = replace(preset.model, unet=replace(preset.model.unet, dropout=0.3, attention_resolutions=(4,)))
    return replace(preset, model=model)


def test_stages_computed_twice_have_the_same_gradient(images, quick_preset, tmp_path):
    preset = with_dropout(quick_preset)
    loss, gradient = first_step(images, preset, tmp_path)
    again = first_step(images, preset, tmp_path, checkpoint_stages=True)
    assert again[0] == loss
    assert torch.equal(again[1], gradient)


def test_copies_that_share_a_batch_compute_their_stages_twice_too(images, quick_preset, tmp_path):
    loss, gradient = first_step(images, quick_preset, tmp_path)
    again = first_step(images, quick_preset, tmp_path, checkpoint_stages=True, replicas=2)
    assert again[0] == pytest.approx(loss, rel=1e-6)
    assert (again[1] - gradient).norm() < 1e-5 * gradient.norm()


def test_stages_computed_twice_keep_less(quick_preset):
    def kept(recompute: bool) -> int:
        model = DiffusionAutoencoder(with_dropout(quick_preset).model)
        network = AutoencoderObjective(model, quick_preset.objective).networks["autoencoder"]
        if recompute:
            recompute_stages(network)
        known = {parameter.data_ptr() for parameter in model.parameters()}
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in known:
                sizes.append(tensor.numel())
            return tensor

        x = torch.zeros(4, 3, 16, 16)
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            network(x, x, torch.zeros(4), None)
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)
