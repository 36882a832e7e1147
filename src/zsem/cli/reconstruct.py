"""`zsem reconstruct`: how well images survive encoding and decoding."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report, finite, progress
from zsem.cli.images import SHOWN, Choice, chunks, file_stems, open_images, save_images, save_picture, shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from zsem.data.images import ImageSet
    from zsem.models.imaging import ImageModel
    from zsem.values.codes import Codes

CHUNK = 64
"""Images between two rounds of writing files, to bound the memory."""
COMPARED = ("ddim", 100)
"""DDIM inversion with 100 steps each way, as in DiffAE's Table 1 but on our grid, which is better for it."""
Z_ALONE = "z alone"
"""The row that decodes the semantic code with fresh noise."""


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Command):
    """Encode images, decode them again, and measure the difference.

    Writes reconstruction.png (original, reconstruction, and what the semantic code alone gives with fresh noise),
    reconstruction.json and the reconstructions, in the depth of the images: PNG, else TIFF or npy.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model, or its name on the Hugging Face hub"""
    images: Annotated[Positional[str], arg(metavar="IMAGES")]
    """folder, archive or file of images"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for the table, the picture and the reconstructions"""
    codec: Literal["exact", "ddim", "offsets", "reference"] = "exact"
    """how the stochastic code is found and decoded; reference is DDIM as the official DiffAE code walks it"""
    steps: int = 19
    """noise levels of the codec"""
    split: Choice = "all"
    """which images; val is what training held out, or test where a set has no val"""
    limit: int | None = None
    """only so many images, evenly spaced over the splits"""
    compare: FlagCreatePairsOff[bool] = False
    """add rows for DDIM with 100 steps each way and for the semantic code alone"""
    through_file: FlagCreatePairsOff[bool] = False
    """save the codes to a file and load them again before decoding"""
    dtype: Literal["float32", "float16"] = "float32"
    """numbers of the stochastic code"""

    def run(self) -> Report:
        from zsem import api
        from zsem.models.autoencoder import DiffusionAutoencoder
        from zsem.models.imaging import STEPS, ImageModel
        from zsem.values.errors import ZsemError
        from zsem.values.files import write_whole

        model = api.load(self.model, kind=ImageModel)
        has_z = isinstance(model, DiffusionAutoencoder)
        if model.config.unet.num_classes is not None:
            raise ZsemError(f"{self.model} is conditional on classes: use DiffusionModel.invert and decode from Python")
        images = open_images(self.images, model, split=self.split, limit=self.limit)
        out = Path(self.out)
        stems = file_stems(images.paths, len(images.paths))

        def keep(rows: slice, decoded: Tensor) -> None:
            save_images(out / "decoded", stems[rows], decoded, model.config.intensity)

        results = [self._measure(model, images, self.codec, self.steps, keep=keep)]
        if self.compare:
            results.append(self._measure(model, images, *COMPARED))
            if has_z:
                results.append(self._measure(model, images, Z_ALONE, STEPS))
        figures = {**results[0], "rows": results} if self.compare else results[0]
        write_whole(out / "reconstruction.json", (json.dumps(finite(figures), indent=2) + "\n").encode())
        self._draw(model, images, out / "reconstruction.png", [self.codec, Z_ALONE] if has_z else [self.codec])
        return Report(
            figures=figures, rows=[table_row(result) for result in results], notes=[f"picture and files in {out}"]
        )

    def _measure(
        self,
        model: ImageModel,
        images: ImageSet,
        codec: str,
        steps: int,
        keep: Callable[[slice, Tensor], None] | None = None,
    ) -> dict[str, Any]:
        """Figures of one codec; `keep` is given the decoded images in parts."""
        from zsem.metrics.reconstruction import Reconstruction

        intensity = model.config.intensity
        metric, seconds = Reconstruction(intensity), 0.0
        with progress(f"{codec} {steps}") as done:
            for rows in chunks(len(images.pixels), CHUNK):
                started = time.perf_counter()
                decoded = self._round_trip(model, part(images, rows), codec, steps, seed=rows.start)
                seconds += time.perf_counter() - started
                metric.update(intensity.normalise(images.pixels[rows]), decoded)
                if keep:
                    keep(rows, decoded)
                done(rows.stop, len(images.pixels))
        return {
            "codec": codec,
            "steps": steps,
            **evaluations(model, codec, steps),
            **dataclasses.asdict(metric.compute()),
            "seconds": seconds,
        }

    def _round_trip(self, model: ImageModel, images: ImageSet, codec: str, steps: int, seed: int) -> Tensor:
        import torch

        from zsem.models.autoencoder import DiffusionAutoencoder
        from zsem.models.diffusion import DiffusionModel

        dtype = getattr(torch, self.dtype)
        if isinstance(model, DiffusionModel):
            return model.decode(self._stored(model.invert(images, codec=codec, steps=steps, storage=dtype), dtype))
        assert isinstance(model, DiffusionAutoencoder)
        if codec == Z_ALONE:
            return model.decode(model.encode(images, noise=False), seed=seed)
        return model.decode(self._stored(model.encode(images, codec=codec, steps=steps, storage=dtype), dtype))

    def _stored(self, codes: Codes, dtype: torch.dtype) -> Codes:
        from zsem.values.codes import Codes

        if not self.through_file:
            return codes
        with TemporaryDirectory() as folder:
            return Codes.load(codes.save(Path(folder) / "codes.parquet", dtype=dtype))

    def _draw(self, model: ImageModel, images: ImageSet, path: Path, codecs: list[str]) -> None:
        some = part(images, slice(SHOWN))
        decoded = [model.display(self._round_trip(model, some, codec, self.steps, seed=0)) for codec in codecs]
        save_picture(path, [shown(model, some), *decoded], ["original", *codecs])


def part(images: ImageSet, rows: slice) -> ImageSet:
    """Consecutive images of a set."""
    return images.subset(range(len(images))[rows])


def evaluations(model: ImageModel, codec: str, steps: int) -> dict[str, int]:
    """Evaluations of the decoder's network to encode and to decode one image."""
    from zsem.diffusion.codecs import CODECS

    if codec == Z_ALONE:
        return {"nfe_encode": 0, "nfe_decode": CODECS["exact"].nfe_decode(model.grid(steps))}
    grid = model.grid(steps, codec)
    return {"nfe_encode": CODECS[codec].nfe_encode(grid), "nfe_decode": CODECS[codec].nfe_decode(grid)}


def table_row(result: dict[str, Any]) -> dict[str, str]:
    """One row of the table for people."""
    # Rounded down, so that 100 % means all
    share = math.floor(result["identical"] * 1e4) / 1e2
    return {
        "codec": result["codec"],
        "nfe": f"{result['nfe_encode']} + {result['nfe_decode']}",
        "MSE": f"{result['mse']:.1e}",
        "PSNR dB": f"{result['psnr']:.1f}",
        "SSIM": f"{result['ssim']:.4f}",
        "identical": f"{share:g} %",
        "seconds": f"{result['seconds']:.1f}",
        "n": str(result["n"]),
    }
