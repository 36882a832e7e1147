"""How exactly images survive the codecs, and how far edits drift from the exact ODE's.

    python benchmarks/codec.py RUN DATA [--number 8] [--moments 256] [--json FILE]

Round trip: encode and decode held-out images. Drift: encode, move z half the way to another image's, decode; compared
with the same done by a 400-step Heun solver both ways (float64 state). Errors are mean squared, on the [0, 1] scale.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zsem import api
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8, to_uint8
from zsem.diffusion.codecs import CODECS
from zsem.diffusion.denoiser import bind
from zsem.diffusion.schedule import Spacing, TimeGrid
from zsem.diffusion.solvers import heun, last
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import CLEANEST, U_MAX, evaluation
from zsem.values.prediction import Condition

REFERENCE_STEPS = 400


@dataclass(frozen=True, kw_only=True)
class Row:
    """One codec on one grid."""

    name: str
    codec: str
    steps: int
    spacing: Spacing = "logsnr"
    cleanest: int = CLEANEST
    storage: torch.dtype = torch.float32


ROWS = [
    Row(name="exact", codec="exact", steps=19),
    Row(name="exact, float16 codes", codec="exact", steps=19, storage=torch.float16),
    Row(name="exact, from timestep 0", codec="exact", steps=19, cleanest=0),
    Row(name="offsets", codec="offsets", steps=19),
    Row(name="ddim, same grid", codec="ddim", steps=19),
    Row(name="ddim, log-SNR grid", codec="ddim", steps=100),
    Row(name="ddim, uniform grid (the paper's)", codec="ddim", steps=100, spacing="uniform", cleanest=0),
]


def mean_square(a: Tensor, b: Tensor) -> float:
    return float(((a.cpu().double() - b.cpu().double()) / 2).square().mean())


def measure(model: DiffusionAutoencoder, pixels: Tensor) -> dict[str, object]:
    x0 = from_uint8(pixels).to(model.device)
    with evaluation(model):
        z = model.encoder(x0)
        before = bind(model.denoiser, Condition(z=z))
        after = bind(model.denoiser, Condition(z=(z + z.roll(1, dims=0)) / 2))
        fine = TimeGrid.make(model.schedule, REFERENCE_STEPS, u_max=U_MAX)
        x_T, _ = last(heun(before, x0, fine.reversed()))
        reference, _ = last(heun(after, x_T, fine))
        rows = []
        for row in ROWS:
            codec = CODECS[row.codec]
            grid = TimeGrid.make(model.schedule, row.steps, row.spacing, u_max=U_MAX, cleanest=row.cleanest)
            noise = codec.encode(before, x0, grid, row.storage)
            back = codec.decode(before, noise, grid)
            rows.append(
                {
                    "codec": row.name,
                    "nfe": [codec.nfe_encode(grid), codec.nfe_decode(grid)],
                    "mse": mean_square(back, x0),
                    "identical": float((to_uint8(back).cpu() == pixels).double().mean()),
                    "drift": mean_square(codec.decode(after, noise, grid), reference),
                    "x_T_mean": float(noise.x_T.double().mean()),
                    "x_T_variance": float(noise.x_T.double().var()),
                }
            )
    ddim = rows[-1]["drift"]
    return {
        "images": len(pixels),
        "drift_of_ddim_over_exact": ddim / rows[0]["drift"],
        "batch_of_one": batch_of_one(model, pixels),
        "edit": mean_square(reference, x0),
        "reference_x_T": {"mean": float(x_T.mean()), "variance": float(x_T.var())},
        "rows": rows,
    }


def batch_of_one(model: DiffusionAutoencoder, pixels: Tensor) -> dict[str, float]:
    """Largest differences of z, x_T and decoded pixels ([-1, 1]) between one batch and images one by one."""
    together, alone = model.encode(pixels, batch_size=len(pixels)), model.encode(pixels, batch_size=1)
    varied = model.vary(together)
    decoded = model.decode(varied, batch_size=len(pixels)) - model.decode(varied, batch_size=1)
    assert together.noise is not None
    assert alone.noise is not None
    return {
        "z": float((together.z - alone.z).abs().max()),
        "x_T": float((together.noise.x_T - alone.noise.x_T).abs().max()),
        "decoded": float(decoded.abs().max()),
    }


def moments(model: DiffusionAutoencoder, pixels: Tensor) -> dict[str, float]:
    """Mean and variance of the default codec's x_T over all its numbers: 0 and 1 for a perfect inversion."""
    noise = model.encode(pixels, batch_size=32).noise
    assert noise is not None
    return {"images": len(pixels), "mean": float(noise.x_T.mean()), "variance": float(noise.x_T.var())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--number", type=int, default=8, help="held-out images")
    parser.add_argument("--moments", type=int, default=256, help="held-out images over which x_T's moments are taken")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    model = api.load(arguments.run)
    config = model.config
    images = load_images(arguments.data, size=config.image_size, channels=config.image_channels).held_out()
    figures = measure(model, images.pixels[: arguments.number])
    print(f"{figures['images']} held-out images; the edit itself changes them by {figures['edit']:.1e}")
    print("| codec | nfe | round trip MSE | identical pixels | edit drift | x_T mean | x_T variance |")
    print("|---|---|---|---|---|---|---|")
    for row in figures["rows"]:
        print(
            f"| {row['codec']} | {row['nfe'][0]} + {row['nfe'][1]} | {row['mse']:.1e} | {row['identical']:.2%} "
            f"| {row['drift']:.1e} | {row['x_T_mean']:+.3f} | {row['x_T_variance']:.3f} |"
        )
    print(f"DDIM's drift on the paper's grid is {figures['drift_of_ddim_over_exact']:.1f} times the exact codec's")
    x_T = moments(model, images.pixels[: arguments.moments])
    figures["moments"] = x_T
    print(f"x_T of {x_T['images']} held-out images: mean {x_T['mean']:+.3f}, variance {x_T['variance']:.3f}")
    one = figures["batch_of_one"]
    print(f"one by one against a batch: z {one['z']:.0e}, x_T {one['x_T']:.0e}, fresh x_T decoded {one['decoded']:.0e}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
