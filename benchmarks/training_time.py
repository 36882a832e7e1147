"""What more minutes of training buy: the averages that a run kept on its way, measured on the same held-out images.

python benchmarks/training_time.py RUN DATA [--number 64] [--picture FILE.png] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsem import api
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8, grid, save_png, to_uint8
from zsem.metrics.reconstruction import Reconstruction
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.training import posthoc
from zsem.training.plan import stored_plan
from zsem.values.files import read_tensors

SHOWN = 10


def on_its_way(run: Path, trained: DiffusionAutoencoder) -> Iterator[DiffusionAutoencoder]:
    """The model as it was after some iterations, oldest first, and at the end."""
    training = stored_plan(run).preset.training
    known = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for path in posthoc.snapshots(run):
        model, iteration = copy.deepcopy(trained), int(path.stem)
        tensors = read_tensors(path, "train again")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"{training.ema_width}/{name}"])
        seconds = max(line["seconds"] for line in known if line["iteration"] <= iteration)
        model.history |= {"minutes": seconds / 60, "images": iteration * training.batch_size}
        yield model
    yield trained


def measure(model: DiffusionAutoencoder, pixels: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Figures of one model, and what it draws from z alone (the same x_T for all)."""
    codes = model.encode(pixels)
    exact, alone = Reconstruction(), Reconstruction()
    exact.update(from_uint8(pixels), model.decode(codes))
    drawn = model.decode(model.vary(codes))
    alone.update(from_uint8(pixels), drawn)
    assert codes.noise is not None
    figures = {
        "minutes": model.history["minutes"],
        "images": model.history["images"],
        "identical": exact.compute().identical,
        "mse_exact": exact.compute().mse,
        "mse_z_alone": alone.compute().mse,
        "ssim_z_alone": alone.compute().ssim,
        "x_T_mean": float(codes.noise.x_T.mean()),
        "x_T_variance": float(codes.noise.x_T.var()),
    }
    return figures, to_uint8(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--number", type=int, default=64, help="held-out images")
    parser.add_argument("--picture", type=Path, help="draw originals and z alone of every one here")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    trained = api.load(arguments.run, kind=DiffusionAutoencoder)
    config = trained.config
    images = load_images(arguments.data, size=config.image_size, channels=config.image_channels).held_out()
    pixels = images.pixels[: arguments.number]
    results = [measure(model, pixels) for model in on_its_way(arguments.run, trained)]
    print("| minutes | images seen | identical pixels | MSE | MSE, z alone | SSIM, z alone | x_T mean | x_T variance |")
    print("|---|---|---|---|---|---|---|---|")
    for figures, _ in results:
        print(
            f"| {figures['minutes']:.0f} | {figures['images']:,} | {figures['identical']:.2%} "
            f"| {figures['mse_exact']:.0e} | {figures['mse_z_alone']:.4f} | {figures['ssim_z_alone']:.3f} "
            f"| {figures['x_T_mean']:+.3f} | {figures['x_T_variance']:.3f} |"
        )
    if arguments.picture:
        captions = ["original", *(f"{figures['minutes']:.0f} min" for figures, _ in results)]
        rows = [pixels[:SHOWN], *(drawn[:SHOWN] for _, drawn in results)]
        save_png(grid(*rows, captions=captions), arguments.picture)
    if arguments.json:
        arguments.json.write_text(json.dumps([figures for figures, _ in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
