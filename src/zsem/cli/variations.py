"""`zsem vary` and `zsem mix`: what the semantic code fixes and what it leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report
from zsem.cli.images import SHOWN, file_stems, open_autoencoder, open_images, save_images, save_picture, shown
from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class Vary(Command):
    """Draw other images with the same semantic code: what changes is what the code leaves open."""

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model, or its name on the Hugging Face hub"""
    images: Annotated[Positional[str], arg(metavar="IMAGES")]
    """folder, archive or file of images"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for vary.png (each row: original, variations) and the variations, in the depth of the images"""
    number: int = 4
    """variations of each image"""
    seed: int = 0
    """seed of the fresh noise"""
    guidance_scale: float = 1.0
    """how far to extrapolate from no z to that of the image: 1 = none; for models trained with z_dropout"""
    limit: int = SHOWN
    """only so many images, evenly spaced over the splits"""

    def run(self) -> Report:
        import torch

        if self.number < 1:
            raise ZsemError(f"--number must be at least 1, not {self.number}")
        model = open_autoencoder(self.model)
        images = open_images(self.images, model, limit=self.limit)
        codes = model.encode(images, noise=False)
        varied = model.vary(codes, self.number, seed=self.seed)
        decoded = model.decode(varied, guidance_scale=self.guidance_scale)
        out = Path(self.out)
        stems = file_stems(images.paths, len(codes))
        save_images(
            out, [f"{stem}-{i + 1}" for stem in stems for i in range(self.number)], decoded, model.config.intensity
        )
        variations = model.display(decoded).unflatten(0, (len(codes), self.number))
        rows = [torch.cat([image[None], row]) for image, row in zip(shown(model, images), variations, strict=True)]
        save_picture(out / "vary.png", rows)
        figures = {"n": len(codes), "number": self.number, "out": self.out}
        return Report(figures=figures, notes=[f"{len(decoded)} variations in {out}, all of them in {out / 'vary.png'}"])


@dataclass(frozen=True, kw_only=True)
class Mix(Command):
    """Decode the semantic code of every image of A with the stochastic code of every image of B."""

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model, or its name on the Hugging Face hub"""
    a: Annotated[Positional[str], arg(metavar="A")]
    """images that give the semantic code: file, folder or archive"""
    b: Annotated[Positional[str], arg(metavar="B")]
    """images that give the stochastic code: file, folder or archive"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for mix.png (a row for each image of A, a column for each of B) and the mixtures"""
    steps: int = 19
    """noise levels of the codec"""
    limit: int = 4
    """only so many images of A and of B, evenly spaced"""

    def run(self) -> Report:
        import torch

        model = open_autoencoder(self.model)
        images_a, images_b = (open_images(source, model, limit=self.limit) for source in (self.a, self.b))
        codes_a, codes_b = model.encode(images_a, noise=False), model.encode(images_b, steps=self.steps)
        pairs = torch.cartesian_prod(torch.arange(len(codes_a)), torch.arange(len(codes_b)))
        decoded = model.decode(model.mix(codes_a[pairs[:, 0]], codes_b[pairs[:, 1]]))
        out = Path(self.out)
        stems_a, stems_b = (
            [PurePosixPath(stem).name for stem in file_stems(images.paths, len(images.paths))]
            for images in (images_a, images_b)
        )
        stems = file_stems([f"{stems_a[i]}--{stems_b[j]}.png" for i, j in pairs.tolist()], len(pairs))
        save_images(out, stems, decoded, model.config.intensity)
        shown_a, shown_b = shown(model, images_a), shown(model, images_b)
        blank = torch.full_like(shown_b[:1], 255)
        mixtures = model.display(decoded).unflatten(0, (len(codes_a), len(codes_b)))
        rows = [torch.cat([blank, shown_b])]
        rows += [torch.cat([image[None], row]) for image, row in zip(shown_a, mixtures, strict=True)]
        save_picture(out / "mix.png", rows)
        figures = {"n": len(pairs), "a": len(codes_a), "b": len(codes_b), "out": self.out}
        return Report(figures=figures, notes=[f"{len(pairs)} mixtures in {out}, all of them in {out / 'mix.png'}"])
