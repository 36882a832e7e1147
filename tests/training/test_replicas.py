"""Copies that share a batch: the same gradient, the same training to the bit when it is resumed."""

import copy
from dataclasses import replace

import pytest
import torch

from zsem.data.batches import Batches
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.training.loop import Loop
from zsem.training.replicas import Replicas, draws_dropout, how_many
from zsem.values.errors import ZsemError

SETTINGS = Loop.Config(batch_size=10, precision="fp32", learning_rate=1e-3)


def loop_of(model, folder, **changes):
    model = copy.deepcopy(model)
    objective = AutoencoderObjective(model, AutoencoderObjective.Config())
    return Loop(
        model, objective, replace(SETTINGS, **changes), folder,
        measure=lambda *_: None, picture=lambda *_: None, validate=lambda *_: {"loss": 0.0}, say=lambda _: None,
    )  # fmt: skip


def train(model, images, folder, **changes):
    """Losses of four iterations, and the gradient of the fifth."""
    loop, batches = loop_of(model, folder, **changes), Batches(images, batch_size=10)
    losses = [loop.step(batches, 1e-3) for _ in range(4)]
    parts = batches.batch(4).parts(loop.config.accumulate * loop.replicas.number)
    sets = loop.replicas.sets
    passes = [(loop.objective.phases(part, sets[i % len(sets)]), len(part.names) / 10) for i, part in enumerate(parts)]
    phase = loop.backward(passes)
    assert phase is not None and loop.backward(passes) is None
    return [*losses, float(phase.loss)], [parameter.grad for parameter in loop.model.parameters()]


@pytest.fixture(scope="module")
def images(image_folder):
    return load_images(image_folder, size=16)


@pytest.mark.parametrize("changes", [{"replicas": 2}, {"replicas": 3}, {"replicas": 2, "accumulate": 2}])
def test_a_shared_batch_trains_the_same(small_model, images, tmp_path, changes):
    losses, alone = train(small_model, images, tmp_path, replicas=1)
    shared_losses, shared = train(small_model, images, tmp_path, **changes)
    assert shared_losses == pytest.approx(losses, rel=1e-4)
    scale = max(float(gradient.abs().max()) for gradient in alone)
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3 * scale, rtol=1e-2)
    again, gradients = train(small_model, images, tmp_path, **changes)
    assert again == shared_losses  # to the bit, whatever thread was first
    assert all(torch.equal(one, other) for one, other in zip(shared, gradients, strict=True))


def test_copies_follow_the_weights_and_leave_their_gradients(small_model):
    model = copy.deepcopy(small_model)
    replicas = Replicas({"all": model}, 2)
    twin = replicas.sets[1]["all"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    for number, network in enumerate((model, twin), 1):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, float(number))
    replicas.gather()
    assert all(bool((p.grad == 3).all()) for p in model.parameters())
    assert all(p.grad is None for p in twin.parameters())


def test_every_copy_works_in_a_thread_of_its_own():
    import threading

    together = threading.Barrier(3, timeout=20)  # breaks where one waits for another to end

    def work():
        together.wait()
        return threading.get_ident(), torch.get_num_threads()

    found = Replicas({}, 3).run([work] * 3)
    assert len({ident for ident, _ in found}) == 3
    assert {threads for _, threads in found} == {1}


def test_dropout_is_drawn_in_one_order_only(small_model, tmp_path):
    config = replace(small_model.config, unet=replace(small_model.config.unet, dropout=0.1))
    model = DiffusionAutoencoder(config)
    assert draws_dropout({"all": model}) and not draws_dropout({"all": small_model})
    assert how_many({"all": model}, None, torch.device("cpu"), 64) == 1
    assert how_many({"all": small_model}, None, torch.device("cuda"), 64) == 1
    assert how_many({"all": small_model}, 4, torch.device("cpu"), 64, single=False) == 1
    with pytest.raises(ZsemError, match="replicas 1"):
        loop_of(model, tmp_path, replicas=2)
    with pytest.raises(ZsemError, match="at least 1"):
        loop_of(small_model, tmp_path, replicas=0)
