"""A training that is killed goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zsem import api
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.training import checkpoint
from zsem.values.errors import ZsemError

ITERATIONS = 15

TRAIN = """
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
        unet=UNet.Config(
            channels=16, channel_mult=(1, 2), attention_resolutions=(), embed_channels=32, dropout=0.2, patch=4
        ),
        encoder=SemanticEncoder.Config(
            channels=8, channel_mult=(1, 2), attention_resolutions=(), num_res_blocks=1, patch=4
        ),
    ),
    objective=AutoencoderObjective.Config(),
    training=Loop.Config(batch_size=8, warmup=5, log_every=3, checkpoint_minutes=0.0, picture_minutes=1e9),
)
api.train(sys.argv[1], sys.argv[2], preset=preset, iterations=int(sys.argv[3]), resume=sys.argv[4] == "resume")
"""


def command(data: Path, out: Path, how: str = "begin", iterations: int = ITERATIONS) -> list[str]:
    return [sys.executable, "-c", TRAIN, str(data), str(out), str(iterations), how]


def losses(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["iteration"], line["loss"]) for line in lines if "loss" in line]


def wait_for_checkpoint(out: Path, iteration: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not any(int(path.name) >= iteration for path in checkpoint.complete(out / "checkpoints")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_resumed_equals_undisturbed(image_folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(image_folder, whole), check=True, capture_output=True)
    with subprocess.Popen(command(image_folder, killed), stdout=subprocess.DEVNULL) as process:
        wait_for_checkpoint(killed, 7, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(losses(killed)) < len(losses(whole))
    subprocess.run(command(image_folder, killed, "resume"), check=True, capture_output=True)
    assert losses(killed) == losses(whole)
    assert losses(whole)[-1][0] == ITERATIONS
    weights = [(out / "model.safetensors").read_bytes() for out in (whole, killed)]
    assert weights[0] == weights[1]


def test_sigterm_saves_and_leaves(image_folder, tmp_path):
    with subprocess.Popen(command(image_folder, tmp_path / "run", iterations=10**6), stdout=subprocess.PIPE) as process:
        wait_for_checkpoint(tmp_path / "run", 2, process)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0
    assert "--resume" in said
    stopped = int(said.split("stopped at iteration ")[1].split(";")[0])
    assert int(checkpoint.complete(tmp_path / "run" / "checkpoints")[-1].name) == stopped
    assert DiffusionAutoencoder.from_pretrained(tmp_path / "run").history["iterations"] == stopped


FULL = TRAIN.replace(
    "api.train(",
    "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]),) * 2)\napi.train(",
)


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_full_disk_keeps_the_last_checkpoint(image_folder, tmp_path):
    out = tmp_path / "run"
    subprocess.run(command(image_folder, out, iterations=6), check=True, capture_output=True)
    before = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    arguments = command(image_folder, out, "resume", iterations=9)
    arguments[2] = FULL
    done = subprocess.run([*arguments, "20000"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("zsem.values.errors.ZsemError: could not write")
    assert "training goes on" in done.stdout
    assert {path: path.read_bytes() for path in out.rglob("*.safetensors")} == before
    subprocess.run(command(image_folder, out, "resume", iterations=9), check=True, capture_output=True)
    assert losses(out)[-1][0] == 9


def test_a_folder_in_use_is_not_overwritten(image_folder, tmp_path):
    subprocess.run(command(image_folder, tmp_path / "run", iterations=3), check=True, capture_output=True)
    with pytest.raises(ZsemError, match="add --resume"):
        api.train(image_folder, tmp_path / "run", preset="nano", iterations=1)
    with pytest.raises(ZsemError, match="no training to resume"):
        api.train(image_folder, tmp_path / "other", preset="nano", iterations=1, resume=True)
    with pytest.raises(ZsemError, match="choose one of nano"):
        api.train(image_folder, tmp_path / "other", preset="nono", iterations=1)
