"""The judge: what it learns, where it is kept, what it leaves out."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from zsem.data.batches import Batches
from zsem.models.base import Model
from zsem.models.judge import Judge, JudgeObjective
from zsem.nets.encoder import SemanticEncoder
from zsem.training.judging import binary_attributes, judge_for
from zsem.training.loop import Loop
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch

CONFIG = Judge.Config(
    attributes=("red",),
    image_size=16,
    net=SemanticEncoder.Config(channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool=2),
)
SETTINGS = Loop.Config(batch_size=32, learning_rate=3e-3, warmup=20, flip=False, precision="fp32")


def quiet(line: str) -> None:
    """Training says something now and then; here nobody listens."""


@pytest.fixture(scope="module")
def folder(labelled_discs, tmp_path_factory):
    """A folder with a judge of red discs."""
    folder = tmp_path_factory.mktemp("judge")
    judge_for(labelled_discs, folder, config=CONFIG, settings=SETTINGS, iterations=150, say=quiet)
    return folder


def test_a_judge_learns_what_discs_are_red(labelled_discs, folder):
    judge = Model.from_pretrained(folder)
    assert isinstance(judge, Judge) and judge.config.attributes == ("red",)
    held_out = labelled_discs.held_out()
    logits, red = judge.logits(held_out)[:, 0], torch.from_numpy(held_out.attributes["red"])
    pairs = logits[red == 1][:, None] - logits[red == 0][None]
    auroc = float((pairs > 0).double().mean())
    assert auroc > 0.9
    assert judge.history["auroc"] == {"red": pytest.approx(auroc, abs=1e-4)}
    # it does not matter how images are given, nor in what company
    torch.testing.assert_close(judge.logits(held_out.pixels, batch_size=7)[:, 0], logits, atol=1e-4, rtol=1e-4)


def test_the_judge_of_the_same_images_is_found_again(labelled_discs, folder):
    written = (folder / "model.safetensors").stat().st_mtime_ns
    again = judge_for(labelled_discs, folder, config=CONFIG, settings=SETTINGS, iterations=150, say=quiet)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert again.stamp == Judge.from_pretrained(folder).stamp


def test_a_folder_with_the_judge_of_other_images_is_refused(labelled_discs, folder):
    others = replace(labelled_discs, pixels=255 - labelled_discs.pixels)
    with pytest.raises(ZsemError, match="other images or attributes"):
        judge_for(others, folder, config=CONFIG, settings=SETTINGS, say=quiet)
    renamed = replace(labelled_discs, attributes={"rosy": labelled_discs.attributes["red"]})
    with pytest.raises(ZsemError, match="other images or attributes"):
        judge_for(renamed, folder, settings=SETTINGS, say=quiet)


def test_an_unfinished_training_goes_on(labelled_discs, tmp_path):
    def until(iterations: int) -> int:
        judge = judge_for(labelled_discs, tmp_path, config=CONFIG, settings=SETTINGS, iterations=iterations, say=quiet)
        return judge.history["images"]

    assert [until(2), until(5), until(5)] == [2 * 32, 5 * 32, 5 * 32]


def test_a_stopped_training_says_how_to_go_on(labelled_discs, tmp_path, monkeypatch):
    monkeypatch.setattr("zsem.training.loop.SAY_SECONDS", 0)

    def interrupt(line: str) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(ZsemError, match="the same command goes on with it"):
        judge_for(labelled_discs, tmp_path, config=CONFIG, settings=SETTINGS, iterations=9, say=interrupt)
    assert Judge.from_pretrained(tmp_path).history["iterations"] == 1
    judge = judge_for(labelled_discs, tmp_path, config=CONFIG, settings=SETTINGS, iterations=9, say=quiet)
    assert judge.history["iterations"] == 9


def test_only_attributes_of_two_kinds_are_judged(labelled_discs):
    assert list(binary_attributes(labelled_discs).attributes) == ["red"]
    with pytest.raises(ZsemError, match=r"discs has no 0/1 attributes"):
        binary_attributes(replace(labelled_discs, attributes={"redness": labelled_discs.attributes["redness"]}))


def test_the_loss_is_the_mean_cross_entropy_of_known_labels(labelled_discs):
    model = Judge(replace(CONFIG, attributes=("a", "b")))
    objective = JudgeObjective(model, JudgeObjective.Config(noise=0.0))
    labels = torch.tensor([[0, 1], [1, torch.nan], [torch.nan, torch.nan]])
    images = labelled_discs.pixels[:3]
    batch = Batch(images=images, names=[(0, 0, i) for i in range(3)], attributes=labels)
    (phase,) = objective.phases(batch, objective.networks)
    p = torch.sigmoid(model(images / 127.5 - 1))
    expected = -torch.log(torch.stack([1 - p[0, 0], p[0, 1], p[1, 0]])).mean()
    torch.testing.assert_close(phase.loss, expected)
    phase.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    with pytest.raises(ValueError, match="that have its attributes"):
        next(objective.phases(replace(batch, attributes=None), objective.networks))


def test_noise_is_a_function_of_the_batchs_names(labelled_discs):
    model = Judge(CONFIG)

    def loss(iteration: int, noise: float) -> float:
        names = [(0, iteration, i) for i in range(4)]
        batch = Batch(images=labelled_discs.pixels[:4], names=names, attributes=torch.ones(4, 1))
        objective = JudgeObjective(model, JudgeObjective.Config(noise=noise))
        return float(next(objective.phases(batch, objective.networks)).loss.detach())

    assert loss(0, 0.3) == loss(0, 0.3) != loss(1, 0.3)
    assert loss(0, 0.0) == loss(1, 0.0)


def test_batches_carry_the_labels_of_their_images(labelled_discs):
    batch = Batches(labelled_discs, batch_size=16, seed=1).batch(60)
    assert batch.attributes is not None
    place = {labelled_discs.pixels[i].numpy().tobytes(): i for i in range(len(labelled_discs))}
    rows = [place[image.numpy().tobytes()] for image in batch.images]
    expected = np.stack([labelled_discs.attributes[name][rows] for name in ("redness", "red")], axis=1)
    np.testing.assert_array_equal(batch.attributes.numpy(), expected)
    assert Batches(labelled_discs.pixels, batch_size=4).batch(0).attributes is None
