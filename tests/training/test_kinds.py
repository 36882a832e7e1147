"""One loop for models of every kind: begun by name, told classes where they know some, gone on with, sampled."""

import json
from dataclasses import replace

import pytest
import torch

from zsem import api
from zsem.data.builtin import digits
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.training.images import ImageOptions
from zsem.training.presets import find_preset
from zsem.values.errors import ZsemError

CONDITIONAL = ImageOptions(conditional=True)
NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def digit_folder(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("data") / "digits", size=8)


def small(kind):
    """The smallest training of a kind."""
    preset = find_preset("nano", kind)
    name, net = ("net", preset.model.net) if kind == "classifier" else ("unet", preset.model.unet)
    net = replace(
        net, channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), embed_channels=16, patch=1,
        num_head_channels=None,
    )  # fmt: skip
    return replace(
        preset,
        model=replace(preset.model, image_size=8, **{name: net}),
        training=replace(preset.training, batch_size=16, warmup=2, log_every=1, precision="fp32", validation_images=20),
    )


def small_baseline(kind):
    """The smallest training of a VAE or a GAN."""
    preset = find_preset("nano", kind)
    nets = {
        name: replace(getattr(preset.model, name), channels=8, channel_mult=(1, 2), patch=1)
        for name in ("encoder", "decoder", "generator", "discriminator")
        if hasattr(preset.model, name)
    }
    return replace(
        preset,
        model=replace(preset.model, image_size=8, z_dim=4, **nets),
        training=replace(preset.training, batch_size=16, warmup=2, log_every=1, precision="fp32", validation_images=20),
    )


def quiet(line: str) -> None:
    """Nobody listens."""


def losses(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.parametrize(("kind", "reading"), [("diffusion", CONDITIONAL), ("classifier", ImageOptions())])
def test_a_training_is_told_the_classes_and_goes_on_where_it_stopped(digit_folder, tmp_path, kind, reading):
    kwargs = {"preset": small(kind), "reading": reading, "say": quiet}
    whole = api.train(digit_folder, tmp_path / "whole", iterations=6, **kwargs)
    assert whole.config.class_names == NAMES
    assert whole.kind == json.loads((tmp_path / "whole" / "run.json").read_text())["kind"] == kind
    assert whole.history["validation"]["loss"] > 0
    api.train(digit_folder, tmp_path / "parts", iterations=6, callbacks=[stop_after(3)], **kwargs)
    assert len(losses(tmp_path / "parts")) < 6
    with pytest.raises(ZsemError, match=f"parts holds a training of kind {kind}, not gan"):
        api.train(digit_folder, tmp_path / "parts", kind="gan", iterations=6, resume=True, say=quiet)
    again = api.train(digit_folder, tmp_path / "parts", kind=kind, iterations=6, resume=True, say=quiet)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert again.stamp == whole.stamp
    assert api.load(tmp_path / "parts").stamp == whole.stamp


def stop_after(iteration):
    """A callback that asks the training to stop, as Ctrl-C does."""
    import os
    import signal

    def callback(record, model):
        if record["iteration"] == iteration and "loss" in record:
            os.kill(os.getpid(), signal.SIGINT)

    return callback


def test_a_diffusion_model_is_unconditional_where_nothing_is_said(digit_folder, tmp_path):
    model = api.train(digit_folder, tmp_path, preset=small("diffusion"), iterations=1, say=quiet)
    assert isinstance(model, DiffusionModel)
    assert (model.config.unet.num_classes, model.config.class_names) == (None, ())
    assert list((tmp_path / "pictures").glob("*.png"))
    assert model.sample(2, steps=2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("kind", ["vae", "gan"])
def test_baselines_are_trained_drawn_validated_and_sampled(zsem, digit_folder, tmp_path, kind):
    model = api.train(digit_folder, tmp_path / "run", preset=small_baseline(kind), iterations=2, say=quiet)
    assert model.kind == api.load(tmp_path / "run").kind == kind
    assert model.history["validation"]["loss"] > 0
    assert list((tmp_path / "run" / "pictures").glob("*.png"))
    code, out, err = zsem("sample", tmp_path / "run", "-n", "3", "--out", tmp_path / "s", "--json")
    assert code == 0, err
    assert json.loads(out)["n"] == len(list((tmp_path / "s" / "images").glob("*.png"))) == 3


def test_no_loss_chooses_an_average_of_a_gan(digit_folder, tmp_path):
    api.train(digit_folder, tmp_path, preset=small_baseline("gan"), iterations=2, say=quiet)
    with pytest.raises(ZsemError, match=r"a GAN's loss does not tell which average .*: say which with --sigma-rel"):
        api.choose_average(tmp_path, say=quiet)


def test_only_a_training_has_averages(tmp_path):
    with pytest.raises(ZsemError, match=r"is no folder of a training, as it has no run\.json"):
        api.choose_average(tmp_path, say=quiet)


def test_a_preset_with_classes_takes_those_of_the_images(digit_folder, tmp_path):
    preset = small("diffusion")
    preset = replace(preset, model=replace(preset.model, unet=replace(preset.model.unet, num_classes=1000)))
    model = api.train(digit_folder, tmp_path, preset=preset, iterations=1, say=quiet)
    assert model.config.class_names == NAMES


def test_classes_that_do_not_fit_are_one_sentence(digit_folder, image_folder, quick_preset, tmp_path):
    with pytest.raises(ZsemError, match="kind autoencoder is told no classes: leave out --conditional"):
        api.train(digit_folder, tmp_path, preset=quick_preset, reading=CONDITIONAL, iterations=1, size=8, say=quiet)
    with pytest.raises(ZsemError, match="has none: put the images into a folder for each class"):
        api.train(image_folder, tmp_path, preset=small("classifier"), size=16, iterations=1, say=quiet)
    with pytest.raises(ZsemError, match="the preset is for a model of kind classifier, not diffusion"):
        api.train(digit_folder, tmp_path, kind="diffusion", preset=small("classifier"), iterations=1, say=quiet)
    named = replace(small("classifier").model, image_channels=1, num_outputs=2, class_names=("cat", "dog"))
    NoisyClassifier(named).save(tmp_path / "cats")
    with pytest.raises(ZsemError, match=r"the images are 0, 1, .*, those of the model cat, dog: give the same"):
        api.train(digit_folder, tmp_path / "x", preset=small("classifier"), init=tmp_path / "cats", iterations=1)
    with pytest.raises(ZsemError, match="cats is no model of the kind to train, diffusion"):
        api.train(digit_folder, tmp_path / "x", preset=small("diffusion"), init=tmp_path / "cats", iterations=1)
    DiffusionModel(replace(small("diffusion").model, image_channels=1)).save(tmp_path / "plain")
    with pytest.raises(ZsemError, match="the model to start from is told no classes: leave out --conditional, or"):
        api.train(
            digit_folder, tmp_path / "x", preset=small("diffusion"), reading=CONDITIONAL, init=tmp_path / "plain",
            iterations=1,
        )  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_a_model_whose_classes_have_no_names_takes_those_of_the_images(digit_folder, tmp_path):
    config = replace(small("diffusion").model, image_channels=1)
    config = replace(config, unet=replace(config.unet, num_classes=10))
    start = DiffusionModel(config)
    start.save(tmp_path / "start")
    model = api.train(
        digit_folder, tmp_path / "run", preset=small("diffusion"), init=tmp_path / "start", iterations=1, say=quiet
    )
    assert model.config.class_names == NAMES
    assert torch.allclose(model.unet.class_embed.weight, start.unet.class_embed.weight, atol=0.1)


def test_averages_of_other_lengths_for_every_kind(digit_folder, tmp_path):
    api.train(digit_folder, tmp_path / "run", preset=small("classifier"), iterations=8, say=quiet)
    best = api.choose_average(tmp_path / "run", sigma_rel=0.1, say=quiet)
    assert isinstance(best, NoisyClassifier)
    assert best.history["ema"]["sigma_rel"] == 0.1


def test_the_command_line_trains_and_samples(zsem, digit_folder, tmp_path):
    flags = ["--size", "8", "--iterations", "2", "--training.batch-size", "8", "--training.validation-images", "8"]
    net = ["channels", "8", "channel-mult", "1", "2", "num-res-blocks", "1", "embed-channels", "16", "patch", "1"]
    wide = ["channels", "32", *net[2:]]
    code, _, err = zsem(
        "train", digit_folder, "--model", "diffusion", "--preset", "nano", "--conditional", "--out", tmp_path / "d",
        *flags, *flag_names("--model.unet.", net),
    )  # fmt: skip
    assert code == 0, err
    code, _, err = zsem(
        "train", digit_folder, "--model=classifier", "--preset=nano", "--out", tmp_path / "c", *flags,
        *flag_names("--model.net.", wide),
    )  # fmt: skip
    assert code == 0, err
    code, out, err = zsem(
        "sample", tmp_path / "d", "--out", tmp_path / "s", "-n", "3", "--classes", "7,1", "--guidance-scale", "2",
        "--classifier", tmp_path / "c", "--classifier-scale", "2", "--steps", "2", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["classes"] == ["7", "1"]
    assert len(list((tmp_path / "s" / "images").rglob("*.png"))) == 3
    code, _, err = zsem("train", digit_folder, "--model", "painter", "--out", tmp_path / "p")
    assert code == 2
    assert "no kind of model 'painter' to train; choose one of autoencoder, diffusion, classifier" in err


def flag_names(prefix, words):
    """Flags of a network's settings, from their names and values."""
    return [word if word.isdecimal() else prefix + word for word in words]
