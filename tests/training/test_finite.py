"""A training whose loss is no number stops, says why, and spoils nothing."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from zsem import api
from zsem.data.images import load_images
from zsem.training.finite import not_finite
from zsem.values.errors import ZsemError


def quiet(line: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def images(image_folder):
    return load_images(image_folder, size=16)


def weights(out):
    return {path: path.read_bytes() for path in out.rglob("*.safetensors") if "averages" not in path.parts}


def test_it_names_iteration_files_and_checkpoint_and_keeps_good_weights(images, quick_preset, tmp_path):
    """A learning rate that no weights survive: the first step with it is finite, what the weights say then is not."""
    out, resumed = tmp_path / "run", []
    api.train(images, out, preset=quick_preset, iterations=3, say=quiet)
    plan = json.loads((out / "run.json").read_text())
    plan["preset"]["training"] |= {"learning_rate": 1e30, "warmup": 0, "batch_size": 8, "checkpoint_minutes": 0.0}
    (out / "run.json").write_text(json.dumps(plan))
    before = weights(out)
    with pytest.raises(ZsemError) as stopped:
        api.train(images, out, iterations=9, resume=True, say=resumed.append)
    assert weights(out) == before
    sentence, about = str(stopped.value), json.loads((out / "not_finite.json").read_text())
    assert sentence.startswith("training stopped because the loss is nan in iteration 5, with the images ")
    assert f"the last good checkpoint is {out / 'checkpoints' / '00000003'}" in sentence
    assert about["iteration"] == 5
    assert len(about["paths"]) == 8
    assert set(about["paths"]) <= set(images.split("train").paths)
    assert ", ".join(about["paths"][:5]) + " and 3 more" in sentence
    assert api.load(out, device="cpu").history["iterations"] == 3


def test_the_end_is_judged_before_it_is_saved(images, quick_preset, tmp_path):
    preset = replace(quick_preset, training=replace(quick_preset.training, learning_rate=1e30, warmup=0))
    with pytest.raises(ZsemError, match=r"in iteration 2, .*there is no checkpoint yet: .* begin anew and a lower"):
        api.train(images, tmp_path / "run", preset=preset, iterations=1, say=quiet)
    assert not (tmp_path / "run" / "model.safetensors").exists()


TWO = """
import sys
from zsem import api
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.training.loop import Loop
from zsem.training.presets import Preset

preset = Preset(
    model=DiffusionAutoencoder.Config(
        image_size=16, z_dim=8,
        unet=UNet.Config(channels=16, channel_mult=(1,), attention_resolutions=(), embed_channels=32, patch=4),
        encoder=SemanticEncoder.Config(channels=8, channel_mult=(1,), attention_resolutions=(), patch=4),
    ),
    objective=AutoencoderObjective.Config(),
    training=Loop.Config(batch_size=8, warmup=0, learning_rate=1e30, precision="fp32"),
)
api.train(sys.argv[1], sys.argv[2], preset=preset, iterations=6)
"""


@pytest.mark.slow
def test_all_processes_stop(image_folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(image_folder), str(tmp_path / "run")], text=True, stderr=subprocess.PIPE,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    complaints = [rank.communicate(timeout=200)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert all("training stopped because the loss is nan in iteration 2" in text for text in complaints)
    assert len(json.loads((tmp_path / "run" / "not_finite.json").read_text())["paths"]) == 8


def test_the_sentence(tmp_path):
    (tmp_path / "checkpoints" / "00000040").mkdir(parents=True)
    (tmp_path / "checkpoints" / "00000040" / "progress.json").touch()
    error = str(not_finite(tmp_path, 41, 0.5, float("inf"), ["a.png", "b.png"], write=False))
    assert error.startswith(
        "training stopped because the gradient's norm is inf in iteration 41, with the images a.png,"
    )
    assert str(tmp_path / "checkpoints" / "00000040") in error
    assert not (tmp_path / "not_finite.json").exists()
