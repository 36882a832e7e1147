"""Fifty deaths: a training that is killed at any moment, again and again, ends as if it had never been disturbed."""

import json
import os
import subprocess
import sys

import pytest

KILLS = 50

# The trainings are forks of one process that has imported everything: a kill then falls into the training itself, not
# into the seconds that imports take. Checkpoints are written every tenth of a second, so that many fall into a write.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

import torch

from zsem import api
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.training import checkpoint, posthoc
from zsem.training.loop import Loop
from zsem.training.presets import Preset
from zsem.values import draws
from zsem.values.files import read_tensors

data, folder, kills, iterations = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), 40
torch.set_num_threads(1)
preset = Preset(
    model=DiffusionAutoencoder.Config(
        image_size=16, z_dim=8,
        unet=UNet.Config(
            channels=16, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=32,
            dropout=0.2, patch=4,
        ),
        encoder=SemanticEncoder.Config(
            channels=16, channel_mult=(1,), attention_resolutions=(), num_res_blocks=1, patch=4
        ),
    ),
    objective=AutoencoderObjective.Config(),
    training=Loop.Config(
        batch_size=8, warmup=5, log_every=3, precision="fp32", checkpoint_minutes=0.1 / 60,
        validation_minutes=0.5 / 60, validation_images=2, picture_minutes=0.5 / 60,
    ),
)


def train(out):
    # --resume where there is something to resume: a kill may come before the first file
    with open(os.devnull, "w") as nowhere:
        api.train(
            data, out, preset=preset, iterations=iterations, resume=(out / "run.json").exists(),
            say=lambda line: print(line, file=nowhere),
        )


def start(out):
    pid = os.fork()
    if pid == 0:
        try:
            train(out)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def losses(out):
    found = []
    for line in (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written
        if "loss" in record:
            found.append((record["iteration"], record["loss"]))
    return found


def files_are_whole(out):
    # whatever has its final name can be read
    count = 0
    for path in checkpoint.complete(out / "checkpoints"):
        for part in path.glob("*.safetensors"):
            read_tensors(part, "-")
        checkpoint.Progress(**json.loads((path / "progress.json").read_text()))
        count += 1
    for path in posthoc.snapshots(out):
        read_tensors(path, "-")
    if (out / "config.json").exists():
        DiffusionAutoencoder.from_pretrained(out)
    for name in ("run.json", "environment.json"):
        if (out / name).exists():
            json.loads((out / name).read_text())
    return count


train_alone = folder / "undisturbed"
started = time.monotonic()
os.waitpid(start(train_alone), 0)
seconds = time.monotonic() - started
expected = losses(train_alone)
report = {"kills": 0, "while_writing": 0, "ended_runs": 0, "checkpoints_read": 0, "wrong": []}
number, out = 0, folder / "killed-0"


def compare_end(out):
    same = (out / "model.safetensors").read_bytes() == (train_alone / "model.safetensors").read_bytes()
    if losses(out) != expected or not same:
        report["wrong"].append(f"{out.name} ended otherwise")
    report["ended_runs"] += 1


while report["kills"] < kills:
    pid = start(out)
    time.sleep(float(draws.generator(11, report["kills"] + 1000 * number).uniform(0.0, seconds / 6)))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):  # it had ended by itself
        if os.WEXITSTATUS(status):
            report["wrong"].append(f"{out.name} failed")
            break
        compare_end(out)
        number, out = number + 1, folder / f"killed-{number + 1}"
        continue
    report["kills"] += 1
    report["while_writing"] += any(out.rglob(".*.tmp"))
    report["checkpoints_read"] += files_are_whole(out)
    so_far = losses(out)
    if so_far != expected[: len(so_far)]:
        report["wrong"].append(f"{out.name} went another way after kill {report['kills']}")
os.waitpid(start(out), 0)
compare_end(out)
print(json.dumps(report))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifty_kills(image_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(image_folder), str(tmp_path), str(KILLS)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["wrong"] == [], done.stderr
    assert report["kills"] == KILLS
    assert report["ended_runs"] >= 1
    assert report["while_writing"] >= 3  # or the moments are not the dangerous ones
    assert report["checkpoints_read"] >= KILLS
