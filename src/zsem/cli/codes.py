"""`zsem encode` and `zsem decode`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsem.cli.command import Command, Report, progress
from zsem.cli.images import Choice, chunks, file_stems, open_autoencoder, open_images, save_images
from zsem.values.errors import ZsemError

CHUNK = 256
"""Images decoded between two rounds of writing files, to bound the memory."""


@dataclass(frozen=True, kw_only=True)
class Encode(Command):
    """Turn images into a file of codes: a Parquet table of semantic codes, the noise in files beside it."""

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model, or its name on the Hugging Face hub"""
    images: Annotated[Positional[str], arg(metavar="IMAGES")]
    """folder, archive or file of images"""
    out: Annotated[str, arg(metavar="FILE")]
    """file to write, e.g. codes.parquet"""
    noise: FlagCreatePairsOff[bool] = False
    """encode the stochastic code too, from which decoding gives the very image back"""
    codec: Literal["exact", "ddim", "offsets", "reference"] = "exact"
    """how the stochastic code is found"""
    steps: int = 19
    """noise levels; the exact codec evaluates the network once more to encode, as often to decode"""
    dtype: Literal["float32", "float16"] = "float32"
    """numbers of the stochastic code; float16 halves the size and stays below one grey level"""
    split: Choice = "all"
    """which images; val is what training held out, or test where a set has no val"""
    limit: int | None = None
    """only so many images, evenly spaced over the splits"""

    def run(self) -> Report:
        import torch

        model = open_autoencoder(self.model)
        images = open_images(self.images, model, split=self.split, limit=self.limit)
        dtype = getattr(torch, self.dtype)
        started = time.perf_counter()
        with progress("encoding") as done:
            codes = model.encode(
                images, noise=self.noise, codec=self.codec, steps=self.steps, storage=dtype, progress=done
            )
        seconds = time.perf_counter() - started
        path = codes.save(self.out, dtype=dtype)
        figures = {
            "n": len(codes),
            "z_dim": codes.z.shape[1],
            "noise": self.noise,
            "seconds": seconds,
            "out": str(path),
        }
        return Report(figures=figures, notes=[f"{len(codes)} codes in {path} ({seconds:.1f} s)"])


@dataclass(frozen=True, kw_only=True)
class Decode(Command):
    """Turn a file of codes into images; codes without noise are given fresh noise."""

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of the model that made the codes"""
    codes: Annotated[Positional[str], arg(metavar="FILE")]
    """file that `zsem encode` wrote"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for the images, named like those they come from, in their depth: PNG, else TIFF or npy"""
    seed: int = 0
    """seed of the fresh noise"""
    guidance_scale: float = 1.0
    """how far to extrapolate from no z to that of the codes: 1 = none; for models trained with z_dropout"""
    limit: int | None = None
    """only the first so many codes"""

    def run(self) -> Report:
        from zsem.values.codes import Codes

        if self.limit is not None and self.limit < 1:
            raise ZsemError(f"--limit must be at least 1, not {self.limit}")
        model = open_autoencoder(self.model)
        codes = Codes.load(self.codes)[: self.limit]
        if codes.noise is None:
            # Drawn for all at once: a code's noise must not depend on the chunk that it falls into
            codes = model.vary(codes, seed=self.seed)
        stems = file_stems(codes.paths, len(codes))
        started = time.perf_counter()
        with progress("decoding") as done:
            for rows in chunks(len(codes), CHUNK):
                decoded = model.decode(codes[rows], guidance_scale=self.guidance_scale)
                save_images(Path(self.out), stems[rows], decoded, model.config.intensity)
                done(rows.stop, len(codes))
        seconds = time.perf_counter() - started
        figures = {"n": len(codes), "seconds": seconds, "out": self.out}
        return Report(figures=figures, notes=[f"{len(codes)} images in {self.out} ({seconds:.1f} s)"])
