"""Samples that are pulled towards the content of one image and the style of another, without any training for it.

    python examples/semantic_guidance.py MODEL AUTOENCODER CONTENT STYLE --out sheet.png

MODEL is a diffusion model, AUTOENCODER a diffusion autoencoder of similar images, CONTENT and STYLE are image files.
The first row shows the two images, the next what MODEL makes of itself, the others the same noise under guidance: both
scalars together, at growing scales (2112.05744). What the scalars say of every row is printed.
"""

from __future__ import annotations

import argparse

import torch

from zsem import api
from zsem.data.pixels import grid, save_png
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.scalars import content, style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("autoencoder", metavar="AUTOENCODER")
    parser.add_argument("content", metavar="CONTENT")
    parser.add_argument("style", metavar="STYLE")
    parser.add_argument("--scales", type=float, nargs=3, default=[0.1, 0.3, 1.0])
    parser.add_argument("--style-share", type=float, default=0.5, help="0 = content alone, 1 = style alone")
    parser.add_argument("--classes", type=int, help="what to make, for a model that is conditional on classes")
    parser.add_argument("--number", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    model = api.load(arguments.model, kind=DiffusionModel)
    autoencoder = api.load(arguments.autoencoder, kind=DiffusionAutoencoder)
    like = content(autoencoder, arguments.content), style(autoencoder, arguments.style)
    shares = 1 - arguments.style_share, arguments.style_share
    targets = torch.cat([model.read(path).part(slice(1)) for path in (arguments.content, arguments.style)])
    rows, captions = [model.display(targets)], ["content, style"]
    print("| scale | content | style |", "|---|---|---|", sep="\n")
    for scale in [0.0, *arguments.scales]:
        images = model.sample(
            arguments.number, classes=arguments.classes, seed=arguments.seed, scalars_normalised=True,
            scalars=[(scale * share, scalar) for share, scalar in zip(shares, like, strict=True)],
        )  # fmt: skip
        with torch.no_grad():
            close = [float(scalar(images.to(model.device)).mean()) for scalar in like]
        print(f"| {scale:g} | {close[0]:.3f} | {close[1]:.3f} |")
        rows.append(model.display(images))
        captions.append(f"scale {scale:g}" if scale else "unguided")
    save_png(grid(*rows, captions=captions, scale=max(1, 64 // images.shape[-1])), arguments.out)


if __name__ == "__main__":
    main()
