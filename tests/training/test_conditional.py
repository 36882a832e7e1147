"""Small models of dark and bright squares, trained by the loop: they make what is asked for and tell what they see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data.batches import Batches
from zsem.data.images import ImageSet
from zsem.data.pixels import from_uint8
from zsem.models.classifier import ClassifierObjective, NoisyClassifier
from zsem.models.denoising import DiffusionObjective
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import HalfUNet, UNet
from zsem.training.loop import Loop
from zsem.training.pictures import samples_sheet
from zsem.training.validation import validate, validate_classifier
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

NAMES = ("dark", "bright")
NET = {
    "channels": 32, "channel_mult": (1,), "num_res_blocks": 1, "attention_resolutions": (), "embed_channels": 64,
    "patch": 2,
}  # fmt: skip
MODEL = DiffusionModel.Config(
    image_size=8, image_channels=1, class_names=NAMES, unet=UNet.Config(**NET, num_classes=2), prediction="v"
)
JUDGE = NoisyClassifier.Config(
    image_size=8, image_channels=1, class_names=NAMES, num_outputs=2, net=HalfUNet.Config(**NET)
)
SETTINGS = Loop.Config(
    batch_size=32, warmup=10, learning_rate=3e-3, precision="fp32", flip=False, ema_others=(), ema_snapshots=0
)


def make(kind, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config)


def loop_of(model, objective, folder, **changes):
    return Loop(
        model, objective, replace(SETTINGS, **changes), folder,
        measure=lambda *_: None, picture=lambda *_: None, say=lambda _: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def squares():
    """A square on a plain ground, both below grey, or both above; 240 for training and 40 held out."""
    number, pixels = 280, np.empty((280, 1, 8, 8), np.uint8)
    for i, image in enumerate(pixels[:, 0]):
        rng = draws.generator(3, i)
        ground, square = 32 + 128 * (i % 2) + np.sort(rng.integers(0, 64, 2))
        y, x = rng.integers(0, 5, 2)
        image[:] = ground
        image[y : y + 4, x : x + 4] = square
    return ImageSet(
        pixels=torch.from_numpy(pixels), paths=[f"{i}.png" for i in range(number)], class_names=list(NAMES),
        classes=torch.arange(number) % 2, attributes={}, splits=["train"] * (number - 40) + ["val"] * 40,
        sha256=[""] * number, source="squares",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(squares, tmp_path_factory):
    model = make(DiffusionModel, MODEL)
    loop = loop_of(model, DiffusionObjective(model, DiffusionObjective.Config()), tmp_path_factory.mktemp("model"))
    return loop.run(Batches(squares.split("train"), batch_size=32), iterations=120)


@pytest.fixture(scope="module")
def judge(squares, tmp_path_factory):
    judge = make(NoisyClassifier, JUDGE)
    loop = loop_of(judge, ClassifierObjective(judge, ClassifierObjective.Config()), tmp_path_factory.mktemp("judge"))
    return loop.run(Batches(squares.split("train"), batch_size=32), iterations=60)


def brightness(model, **settings):
    """Mean of samples that are asked to be dark, and of as many that are asked to be bright."""
    samples = model.sample(32, classes=[0] * 16 + [1] * 16, steps=10, **settings)
    return samples.mean(dim=(1, 2, 3)).view(2, 16)


def test_samples_are_of_the_asked_class_and_guidance_pushes_further(model):
    plain, guided = brightness(model), brightness(model, guidance_scale=3)
    assert bool((plain[0] < -0.1).all()) and bool((plain[1] > 0.1).all())
    assert bool((guided[0] < plain[0]).all()) and bool((guided[1] > plain[1]).all())
    of_none = brightness(model, guidance_scale=0)
    assert 0 < int((of_none > 0).sum()) < 32  # dropped classes have taught it both


def test_a_classifier_knows_classes_until_noise_hides_them(judge, squares):
    figures = validate_classifier(judge, squares)
    assert figures.n == 280
    accuracy = list(figures.accuracy.values())
    assert list(figures.accuracy) == ["62", "187", "312", "437", "562", "687", "812", "937"]
    assert min(accuracy[:2]) > 0.97
    assert abs(accuracy[-1] - 0.5) < 4 * 0.5 / 280**0.5
    assert accuracy[0] > accuracy[4] > accuracy[-1]


def test_figures_of_a_classifier_against_a_slow_loop(judge, squares):
    held_out = squares.held_out()
    some = replace(held_out, classes=torch.where(torch.arange(40) % 4 == 0, -1, held_out.classes))
    figures = validate_classifier(judge, some, levels=2, batch_size=7)
    losses, right = [], []
    for timestep in map(int, figures.accuracy):
        bar = judge.schedule.alphas_cumprod[timestep].item()
        for pixels, path, label in zip(some.pixels, some.paths, some.classes.tolist(), strict=True):
            if label < 0:
                continue
            eps = draws.normal([(*draws.name_of(path), timestep)], (1, 8, 8))
            x_t = (bar**0.5 * from_uint8(pixels)[None] + (1 - bar) ** 0.5 * eps).float()
            with torch.no_grad():
                p = judge(x_t, torch.tensor([float(timestep)]))[0].softmax(0)
            losses.append(-float(p[label].log()))
            right.append(float(int(p.argmax()) == label))
    assert figures.n == 30 and len(losses) == 60
    assert figures.loss == pytest.approx(sum(losses) / 60, rel=1e-4)
    assert list(figures.accuracy.values()) == pytest.approx([sum(right[:30]) / 30, sum(right[30:]) / 30])


def test_classes_are_known_by_name(model, judge, squares):
    """The same images in folders of other names and order, some of a class that nobody knows."""
    held_out = squares.held_out()
    renamed = replace(held_out, class_names=["bright", "cat", "dark"], classes=2 * (1 - held_out.classes))
    assert validate_classifier(judge, renamed) == validate_classifier(judge, held_out)
    assert validate(model, renamed, "v") == validate(model, held_out, "v")
    strangers = replace(renamed, classes=torch.ones(40, dtype=torch.long))
    for call in (lambda: validate_classifier(judge, strangers), lambda: validate(model, strangers, "v")):
        with pytest.raises(ZsemError, match="squares"):
            call()


def test_the_loss_of_a_conditional_model_against_a_slow_loop(model, squares):
    held_out = squares.held_out()
    some = replace(held_out, classes=torch.where(torch.arange(40) < 30, -1, held_out.classes))
    figures = validate(model, some, "v", levels=2, batch_size=3)
    errors = []
    for timestep in map(int, figures.levels):
        bar = model.schedule.alphas_cumprod[timestep].item()
        alpha, sigma = bar**0.5, (1 - bar) ** 0.5
        for i in range(30, 40):
            x0, eps = (
                from_uint8(some.pixels[i])[None],
                draws.normal([(*draws.name_of(some.paths[i]), timestep)], (1, 8, 8)),
            )
            cond = Condition(classes=some.classes[i : i + 1])
            with torch.no_grad():
                v = model.unet((alpha * x0 + sigma * eps).float(), torch.tensor([float(timestep)]), cond)
            errors.append((v - (alpha * eps - sigma * x0)).square().mean().item())
    assert figures.n == 10
    assert list(figures.levels.values()) == pytest.approx([sum(errors[:10]) / 10, sum(errors[10:]) / 10], rel=1e-4)
    assert figures.loss == pytest.approx(sum(errors) / 20, rel=1e-4)


def test_the_sheet_has_a_row_for_every_class_and_is_always_the_same(model, tmp_path):
    for name in ("one", "two"):
        samples_sheet(model, tmp_path / name / "sheet.png", number=24)
    sheets = [(tmp_path / name / "sheet.png").read_bytes() for name in ("one", "two")]
    assert sheets[0] == sheets[1]
    with Image.open(tmp_path / "one" / "sheet.png") as sheet:
        grey = np.asarray(sheet.convert("L")).astype(float)
    line = grey.shape[0] // 3
    right = grey[:, -8 * 10 :]  # past the captions
    rows = [np.median(right[2 + row * line : 10 + row * line]) for row in range(3)]
    assert rows[0] < 110 and rows[1] > 145 and rows[2] < 110


def test_the_sheet_of_a_model_without_classes(tmp_path):
    model = make(DiffusionModel, replace(MODEL, class_names=(), unet=replace(MODEL.unet, num_classes=None)))
    samples_sheet(model, tmp_path / "sheet.png", number=12)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 10 + 2, 2 * 10 + 2)


@pytest.mark.parametrize("kind", ["diffusion", "classifier"])
def test_parts_of_a_batch_add_up_to_its_gradient(kind, squares, tmp_path):
    training = squares.split("train")
    some = replace(training, classes=torch.where(torch.arange(240) % 3 == 0, -1, training.classes))

    def first_step(**settings):
        if kind == "diffusion":
            model = make(DiffusionModel, replace(MODEL, learned_range=True))
            objective = DiffusionObjective(model, DiffusionObjective.Config())
        else:
            model = make(NoisyClassifier, JUDGE)
            objective = ClassifierObjective(model, ClassifierObjective.Config())
        loop = loop_of(model, objective, tmp_path, clip=1e9, **settings)
        loss = loop.step(Batches(some, batch_size=32), 1e-3)
        state = loop.optimisers[kind].state_dict()["state"]
        return loss, torch.cat([row["exp_avg"].flatten() for row in state.values()])

    loss, gradient = first_step(replicas=1)
    assert gradient.norm() > 1e-3
    for settings in ({"accumulate": 2, "replicas": 1}, {"accumulate": 3, "replicas": 2}):
        again = first_step(**settings)
        assert again[0] == pytest.approx(loss, rel=1e-5)
        assert (again[1] - gradient).norm() < 1e-4 * gradient.norm()


def test_the_hybrid_loss_trains_the_variance(squares, tmp_path):
    config = replace(MODEL, learned_range=True, schedule=replace(MODEL.schedule, timesteps=20))
    model = make(DiffusionModel, config)
    objective = DiffusionObjective(model, DiffusionObjective.Config(vlb_weight=0.02))
    loop = loop_of(model, objective, tmp_path, ema_width=0.2)
    trained = loop.run(Batches(squares.split("train"), batch_size=32), iterations=40)
    held_out = squares.held_out()
    bits = trained.bits_per_dim(held_out, classes=held_out.classes).total.mean()
    out = trained.unet.conv_out
    with torch.no_grad():
        for tensor in (out.weight, out.bias):
            tensor.chunk(2)[1].zero_()  # the variance as it was at first, half way between its bounds
    assert bits < trained.bits_per_dim(held_out, classes=held_out.classes).total.mean() - 0.05
