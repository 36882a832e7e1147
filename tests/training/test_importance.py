"""What the importance of timesteps has learned survives a kill, and is the same on any number of processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zsem.data.batches import Batches
from zsem.data.images import load_images
from zsem.diffusion.losses import ImportanceTimesteps
from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.denoising import DiffusionObjective
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import UNet
from zsem.training import checkpoint
from zsem.training.loop import Loop
from zsem.values.errors import ZsemError
from zsem.values.files import read_tensors

ITERATIONS = 12
CONFIG = DiffusionModel.Config(
    image_size=16, learned_range=True, schedule=NoiseSchedule.Config(timesteps=4),
    unet=UNet.Config(
        channels=16, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=16, patch=4
    ),
)  # fmt: skip
BY_IMPORTANCE = DiffusionObjective.Config(timesteps="importance", weighting="simple")


class Killed(Exception):
    """The end of a process."""


def loop_in(folder: Path, *, killed_at: int | None = None) -> Loop:
    """A loop with a new model in its folder; one that is to be killed writes a checkpoint after every iteration."""
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionModel(CONFIG)

    def measure(average: DiffusionModel, everything: bool) -> None:  # after the checkpoint is written
        if average.history["iterations"] == killed_at:
            raise Killed

    settings = Loop.Config(
        batch_size=16, accumulate=2, replicas=2, warmup=5, log_every=3, precision="fp32", ema_others=(),
        ema_snapshots=0, checkpoint_minutes=1e9 if killed_at is None else 0.0,
    )  # fmt: skip
    return Loop(
        model, DiffusionObjective(model, BY_IMPORTANCE), settings, folder,
        measure=measure, picture=lambda *_: None, say=lambda _: None,
    )  # fmt: skip


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def learned(out: Path) -> dict[str, torch.Tensor]:
    return read_tensors(checkpoint.complete(out / "checkpoints")[-1] / checkpoint.OBJECTIVE, "")


def test_killed_and_resumed_draws_the_same_timesteps(image_folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    batches = Batches(load_images(image_folder, size=16), batch_size=16, flip=True)
    loop_in(whole).run(batches, iterations=ITERATIONS)
    with pytest.raises(Killed):
        loop_in(killed, killed_at=8).run(batches, iterations=ITERATIONS)
    assert int(learned(killed)["seen"].min()) >= 10  # not uniform any more
    resumed = loop_in(killed)
    assert resumed.progress.iteration == 8
    resumed.run(batches, iterations=ITERATIONS)
    assert losses(killed) == losses(whole)
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    states = learned(whole), learned(killed)
    assert all(torch.equal(states[0][name], states[1][name]) for name in ("losses", "seen"))
    assert int(states[0]["seen"].sum()) == 16 * ITERATIONS
    importance = ImportanceTimesteps(4)
    importance.load_state_dict(states[0])
    assert float(importance.probabilities().std()) > 1e-3


def test_a_checkpoint_without_what_was_learned_is_not_gone_on_with(image_folder, tmp_path):
    batches = Batches(load_images(image_folder, size=16), batch_size=16)
    loop_in(tmp_path).run(batches, iterations=2)
    for path in tmp_path.glob(f"checkpoints/*/{checkpoint.OBJECTIVE}"):
        path.unlink()
    with pytest.raises(ZsemError, match="no checkpoint"):
        loop_in(tmp_path)


RANK = """
import sys
from pathlib import Path
import torch
from zsem.data.batches import Batches
from zsem.data.images import load_images
from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.denoising import DiffusionObjective
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import UNet
from zsem.training.loop import Loop

torch.manual_seed(0)
model = DiffusionModel(DiffusionModel.Config(
    image_size=16, schedule=NoiseSchedule.Config(timesteps=4),
    unet=UNet.Config(
        channels=16, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=16, patch=4
    ),
))
loop = Loop(
    model, DiffusionObjective(model, DiffusionObjective.Config(timesteps="importance", weighting="simple")),
    Loop.Config(batch_size=16, accumulate=int(sys.argv[3]), warmup=5, log_every=3, precision="fp32"),
    Path(sys.argv[2]), measure=lambda *_: None, picture=lambda *_: None, say=print,
)
ranks = loop.accelerator
batches = Batches(
    load_images(sys.argv[1], size=16), batch_size=16, rank=ranks.process_index, world_size=ranks.num_processes
)
loop.run(batches, iterations=12)
"""


@pytest.mark.slow
def test_two_processes_learn_as_one(image_folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    two = {**one, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    out = {number: tmp_path / str(number) for number in (1, 2)}
    command = [sys.executable, "-c", RANK, str(image_folder)]
    subprocess.run([*command, str(out[1]), "1"], check=True, env=one, capture_output=True)
    ranks = [
        subprocess.Popen([*command, str(out[2]), "2"], env={**two, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [rank.wait(timeout=200) for rank in ranks] == [0, 0]
    assert torch.equal(learned(out[1])["seen"], learned(out[2])["seen"])
    torch.testing.assert_close(learned(out[1])["losses"], learned(out[2])["losses"], rtol=1e-4, atol=0)
    assert losses(out[2]) == pytest.approx(losses(out[1]), rel=1e-4)
