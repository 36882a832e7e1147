"""What `train` takes, refuses and remembers."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from zsem import api
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.training import checkpoint
from zsem.training.families import FAMILIES
from zsem.training.loop import Loop
from zsem.training.presets import PRESETS, Preset
from zsem.values.errors import ZsemError


@pytest.fixture(scope="module")
def preset(small_model):
    return Preset(
        model=small_model.config,
        objective=AutoencoderObjective.Config(),
        training=Loop.Config(batch_size=8, warmup=2, log_every=2, learning_rate=1e-3, precision="fp32"),
    )


@pytest.fixture(scope="module")
def images(image_folder):
    return load_images(image_folder, size=16)


def quiet(line: str) -> None:
    """Training says something now and then; here nobody listens."""


def test_minutes_snapshots_and_init(images, preset, tmp_path):
    first = api.train(images, tmp_path / "a", preset=preset, minutes=0.03, snapshots=(0.01,), say=quiet)
    assert first.history["minutes"] >= 0.03
    snapshot = DiffusionAutoencoder.from_pretrained(tmp_path / "a" / "snapshots" / "0.01min")
    assert 0 < snapshot.history["iterations"] < first.history["iterations"]
    assert snapshot.z_std.min() > 0
    again = api.train(images, tmp_path / "b", init=tmp_path / "a", preset=preset, iterations=1, say=quiet)
    assert again.config == first.config
    # one iteration from there is nearer to it than to where it began itself
    gone = torch.cat([p.flatten() for p in again.parameters()]) - torch.cat([p.flatten() for p in first.parameters()])
    assert gone.abs().max() < 0.01


def test_training_lowers_the_loss(images, preset, tmp_path):
    api.train(images, tmp_path / "run", preset=preset, iterations=200, say=quiet)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-20:]) / 20 < 0.9 * sum(losses[:5]) / 5
    assert (tmp_path / "run" / "pictures" / "00000200.png").exists()


def test_what_is_wrong_is_told_before_anything_is_written(images, preset, tmp_path):
    out = tmp_path / "run"
    wrong = [
        ({"preset": preset}, "say how long"),
        ({"preset": preset, "iterations": 0}, "must be longer"),
        ({"preset": "nano", "iterations": 1}, "16 px and the model is for 32 px"),
        ({"preset": preset, "iterations": 1, "init": tmp_path / "nothing here"}, "nothing here"),
    ]
    for arguments, sentence in wrong:
        with pytest.raises(ZsemError, match=sentence):
            api.train(images, out, say=quiet, **arguments)
        assert not out.exists()
    api.train(images, out, preset=preset, iterations=1, say=quiet)


def test_resume_wants_the_same_images(images, image_folder, preset, tmp_path):
    out = tmp_path / "run"
    api.train(image_folder, out, preset=preset, iterations=2, limit=20, say=quiet)
    with pytest.raises(ZsemError, match="other images"):
        api.train(images.subset(range(30)), out, iterations=4, resume=True, say=quiet)
    resumed = api.train(image_folder, out, iterations=4, resume=True, say=quiet)  # remembers the limit
    assert resumed.history["iterations"] == 4


def test_a_damaged_checkpoint_gives_way_to_the_one_before(images, preset, tmp_path):
    out = tmp_path / "run"
    api.train(images, out, preset=preset, iterations=2, say=quiet)
    api.train(images, out, iterations=4, resume=True, say=quiet)
    _, newer = checkpoint.complete(out / "checkpoints")
    (newer / "optimiser-autoencoder.safetensors").write_bytes(b"no")
    (out / "checkpoints" / ".00000009.tmp").mkdir()
    said: list[str] = []
    assert api.train(images, out, iterations=6, resume=True, say=said.append).history["iterations"] == 6
    assert any("trying the checkpoint before" in line for line in said)
    assert not list((out / "checkpoints").glob(".*"))
    for path in checkpoint.complete(out / "checkpoints"):
        (path / "weights.safetensors").unlink()
    with pytest.raises(ZsemError, match="no checkpoint in"):
        api.train(images, out, iterations=8, resume=True, say=quiet)


def test_a_failing_write_does_not_end_the_training(images, preset, tmp_path):
    """Files stand where folders should be made: root ignores permissions, so those would not do."""
    settings = replace(preset, training=replace(preset.training, checkpoint_minutes=0.0, picture_minutes=0.0))
    out, said = tmp_path / "run", []
    out.mkdir()
    (out / "pictures").write_text("in the way")
    (out / "snapshots").write_text("in the way")
    api.train(images, out, preset=settings, minutes=0.01, snapshots=(0.001,), say=said.append)
    assert any("in the way" not in line and "training goes on" in line for line in said)
    assert DiffusionAutoencoder.from_pretrained(out).history["iterations"] > 1


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, named in PRESETS.items() for name in named])
def test_presets_can_be_built(kind, name):
    chosen, family = PRESETS[kind][name], FAMILIES[kind]
    with torch.device("meta"):
        model = family.model(chosen.model)
    networks = family.objective(model, chosen.objective).networks.values()
    taught = {id(parameter) for network in networks for parameter in network.parameters()}
    assert taught == {id(parameter) for parameter in model.parameters()}


TWO = """
import sys
from zsem import api
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.training.loop import Loop
from zsem.training.presets import Preset
from zsem.models.gan import GanObjective, GenerativeAdversarialNetwork
from zsem.nets.gan import Discriminator
from zsem.nets.vae import Decoder

settings = Loop.Config(batch_size=8, accumulate=int(sys.argv[3]), warmup=2, log_every=1, precision="fp32")
gan = Preset(
    model=GenerativeAdversarialNetwork.Config(
        image_size=16, z_dim=8, generator=Decoder.Config(channels=8, channel_mult=(1, 2)),
        discriminator=Discriminator.Config(channels=8, channel_mult=(1, 2)),
    ),
    objective=GanObjective.Config(r1_every=2), training=settings,
)
autoencoder = Preset(
    model=DiffusionAutoencoder.Config(
        image_size=16, z_dim=8,
        unet=UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(), embed_channels=32),
        encoder=SemanticEncoder.Config(channels=8, channel_mult=(1, 2), attention_resolutions=(), num_res_blocks=1),
    ),
    objective=AutoencoderObjective.Config(),
    training=settings,
)
presets = {"autoencoder": autoencoder, "gan": gan}
api.train(sys.argv[1], sys.argv[2], preset=presets[sys.argv[4]], iterations=6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autoencoder", "gan"])
def test_two_processes_train_as_one(image_folder, tmp_path, kind):
    """The two of them go through their halves of a batch in two parts each; a GAN's with its penalty."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    two = {**one, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, "-c", TWO, str(image_folder)]
    subprocess.run([*command, str(tmp_path / "one"), "1", kind], check=True, env=one, capture_output=True)
    ranks = [
        subprocess.Popen(
            [*command, str(tmp_path / "two"), "2", kind], env={**two, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    losses = [
        [
            line["loss"]
            for line in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
            if "loss" in line
        ]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
