"""How many images a second does training take, and what is in the way?

    python benchmarks/training_speed.py [--rounds 8] [--profile]

The network of the early prototype (64 px, patch 4, 10.8 M parameters), batches of 64, whole iterations of the loop:
draws, forward, backward, clipping, AdamW, average. The variants take turns within one run, so that a change of the
machine hits all alike; what counts is the median of their rounds, and the ratio to the first one. With --profile: how
much of an iteration is convolution, alone on one thread, and what speed the convolutions by themselves would allow.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from zsem.data.batches import Batches
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.training.loop import Loop
from zsem.training.presets import find_preset

BATCH, ITERATIONS = 64, 3
CONVOLUTIONS = {"aten::convolution_backward", "aten::mkldnn_convolution"}


def prototype() -> DiffusionAutoencoder.Config:
    """U-Net of 96 channels, mult (1, 2), attention at 8 x 8; an encoder of 2.1 M parameters to 128 numbers."""
    config = find_preset("tiny").model
    encoder = replace(config.encoder, channels=24, channel_mult=(1, 2, 4, 5), pool=2)
    return replace(config, unet=replace(config.unet, embed_channels=256), encoder=encoder)


def loop_of(folder: Path, **settings: object) -> Loop:
    torch.manual_seed(0)
    model = DiffusionAutoencoder(prototype())
    objective = AutoencoderObjective(model, AutoencoderObjective.Config())
    return Loop(
        model, objective, Loop.Config(batch_size=BATCH, **settings), folder,
        measure=lambda *_: None, picture=lambda *_: None, validate=lambda *_: {"loss": 0.0}, say=print,
    )  # fmt: skip


def profile(loop: Loop, batches: Batches) -> None:
    """Where the processor time of one thread goes."""
    torch.set_num_threads(1)
    loop.step(batches, 1e-4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        loop.step(batches, 1e-4)
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    convolutions = sum(row.self_cpu_time_total for row in rows if row.key in CONVOLUTIONS)
    print("\n| operation | share of one iteration on one thread |\n|---|---|")
    for row in rows[:12]:
        print(f"| {row.key} | {row.self_cpu_time_total / total:.1%} |")
    print(f"\none thread: {BATCH / total * 1e6:.0f} images/s; convolutions alone: {BATCH / convolutions * 1e6:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    images = torch.randint(0, 256, (1024, 3, 64, 64), dtype=torch.uint8)
    batches = Batches(images, batch_size=BATCH, flip=True)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        variants = {
            f"one network, {threads} threads": loop_of(Path(folder), replicas=1),
            f"{threads} copies, a thread each": loop_of(Path(folder), replicas=threads),
        }
        parameters = sum(p.numel() for p in next(iter(variants.values())).model.parameters())
        speeds: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(arguments.rounds + 1):
            for name, loop in variants.items():
                begun = time.perf_counter()
                for _ in range(ITERATIONS):
                    loop.step(batches, 1e-4)
                if number:  # the first round warms up
                    speeds[name].append(BATCH * ITERATIONS / (time.perf_counter() - begun))
        first = statistics.median(next(iter(speeds.values())))
        print(f"{parameters / 1e6:.1f} M parameters\n")
        print("| variant | images/s, median | least | most | ratio |\n|---|---|---|---|---|")
        for name, values in speeds.items():
            middle = statistics.median(values)
            print(f"| {name} | {middle:.0f} | {min(values):.0f} | {max(values):.0f} | {middle / first:.2f} |")
        if arguments.profile:
            profile(next(iter(variants.values())), batches)


if __name__ == "__main__":
    main()
