"""Codes: what images are turned into, as a plain batched value, in memory and in files."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.values.errors import ZsemError
from zsem.values.files import read_tensors, write_whole

FORMAT_VERSION = 1
MEND_NOISE = "codes need their noise file beside them: copy both again, or encode again"
SHARD_IMAGES = 1024  # images per file of noise: 64 px RGB in float32 makes some 100 MB


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The stochastic code of a batch of images.

    x_T: the state at the noisiest level of the grid, nominally N(0, I), [b, c, h, w].
    carry: what the exact codec's second state has beyond one DDIM step from x_T, in the units of x_t, [b, c, h, w];
        None stands for zero, as for fresh noise.
    offsets: per-step corrections of the offsets codec, [b, steps, c, h, w].
    """

    x_T: Float[Tensor, "b c h w"]
    carry: Float[Tensor, "b c h w"] | None = None
    offsets: Float[Tensor, "b s c h w"] | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Noise:
        """Apply `f` to every tensor that is there."""
        return Noise(
            x_T=f(self.x_T),
            carry=None if self.carry is None else f(self.carry),
            offsets=None if self.offsets is None else f(self.offsets),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        named = {"x_T": self.x_T, "carry": self.carry, "offsets": self.offsets}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @staticmethod
    def cat(parts: Sequence[Noise]) -> Noise:
        """Join along the batch; parts must be of one kind. Raises ValueError where they are not."""
        names = parts[0].tensors().keys()
        if any(part.tensors().keys() != names for part in parts):
            raise ValueError("noise with and without carry or offsets cannot be joined")
        return Noise(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in names})


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The codes of n images: what they show (z), the rest (noise), and where they come from.

    z: semantic codes as the encoder gives them, float32, [n, d].
    noise: stochastic codes, or None where only z was asked for.
    codec, timesteps: how the noise was made and must be decoded; the noise levels of the grid, noisiest first.
    shape: channels, height and width of the images.
    model, backend: stamps of the weights and of the arithmetic that made the codes; exactness holds for the same both.
    paths, sha256: the images' files, "" where an image came from memory.
    """

    z: Float[Tensor, "n d"]
    noise: Noise | None = None
    codec: str = "exact"
    timesteps: tuple[float, ...] = ()
    shape: tuple[int, int, int]
    model: str = ""
    backend: str = ""
    paths: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("paths", "sha256"):
            if len(getattr(self, name)) not in {0, len(self)}:
                raise ValueError(f"{name} must name each of the {len(self)} images or none")

    def __len__(self) -> int:
        return len(self.z)

    @property
    def steps(self) -> int:
        """Noise levels of the grid."""
        return len(self.timesteps)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Codes:
        """The codes of some of the images: a slice, a list of positions, or a mask."""
        rows = torch.arange(len(self))[index]
        if rows.ndim == 0:
            rows = rows[None]

        def pick(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names[int(r)] for r in rows) if names else ()

        return replace(
            self,
            z=self.z[rows],
            noise=None if self.noise is None else self.noise.map(lambda t: t[rows]),
            paths=pick(self.paths),
            sha256=pick(self.sha256),
        )

    @staticmethod
    def cat(parts: Sequence[Codes]) -> Codes:
        """Join codes of one model, backend, codec and grid; raises ValueError where they differ."""

        def kind(part: Codes) -> tuple[object, ...]:
            return part.codec, part.timesteps, part.shape, part.model, part.backend

        first = parts[0]
        if any(kind(part) != kind(first) for part in parts):
            raise ValueError("codes of different models, backends, codecs, grids or image shapes cannot be joined")
        if len({(bool(part.paths), bool(part.sha256)) for part in parts}) > 1:
            raise ValueError("codes that name their images cannot be joined with codes that do not")
        noises = [p.noise for p in parts]
        given = [n for n in noises if n is not None]
        if given and len(given) != len(parts):
            raise ValueError("codes with and without noise cannot be joined")
        return replace(
            first,
            z=torch.cat([p.z for p in parts]),
            noise=Noise.cat(given) if given else None,
            paths=sum((p.paths for p in parts), ()),
            sha256=sum((p.sha256 for p in parts), ()),
        )

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write z and names to a Parquet file and the noise beside it in safetensors shards, whole or not at all.

        dtype: float32 or float16 for the noise. z is always float32. To store float16 without loss, encode with
        `storage=torch.float16`: the codec then computes the carry from the rounded x_T.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        import safetensors.torch

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        blank = ("",) * len(self)
        flat = pa.array(self.z.float().cpu().numpy().reshape(-1))
        shards = []
        for number, start in enumerate(range(0, len(self), SHARD_IMAGES) if self.noise is not None else ()):
            part = self[start : start + SHARD_IMAGES].noise
            assert part is not None
            data = safetensors.torch.save({k: v.to("cpu", dtype).contiguous() for k, v in part.tensors().items()})
            # named by content, so that a table never finds the noise of another table under its names
            shards.append(f"{path.stem}.noise-{number:05d}-{hashlib.sha256(data).hexdigest()[:8]}.safetensors")
            write_whole(path.with_name(shards[-1]), data)
        about = {
            "format": "zsem.codes", "version": FORMAT_VERSION, "codec": self.codec, "timesteps": self.timesteps,
            "shape": self.shape, "model": self.model, "backend": self.backend, "noise": shards,
        }  # fmt: skip
        # codes of a model without an encoder have no z, and Arrow no lists of length 0
        z = {"z": pa.FixedSizeListArray.from_arrays(flat, self.z.shape[1])} if self.z.shape[1] else {}
        columns = {
            "path": pa.array(self.paths or blank),
            "sha256": pa.array(self.sha256 or blank),
            **z,
            "model": pa.array([self.model] * len(self)).dictionary_encode(),
            "backend": pa.array([self.backend] * len(self)).dictionary_encode(),
        }
        table = pa.table(columns).replace_schema_metadata({"zsem": json.dumps(about)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_whole(path, sink.getvalue().to_pybytes())
        for old in path.parent.glob(f"{glob.escape(path.stem)}.noise-*.safetensors"):
            if old.name not in shards:
                old.unlink()
        return path

    @staticmethod
    def load(path: str | Path) -> Codes:
        """Read what `save` wrote. Raises ZsemError where the file is missing, foreign, or lacks its noise."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise ZsemError(f"there are no codes at {path}; make them with `zsem encode`") from None
        except pa.ArrowInvalid as error:
            raise ZsemError(f"{path} is not a Parquet file of codes ({error})") from None
        metadata = (table.schema.metadata or {}).get(b"zsem")
        if metadata is None:
            raise ZsemError(f"{path} was not written by zsem; make codes with `zsem encode`")
        about = json.loads(metadata)
        if about["version"] != FORMAT_VERSION:
            raise ZsemError(
                f"{path} holds codes of version {about['version']}; this zsem reads version {FORMAT_VERSION}"
            )
        n, z = len(table), np.zeros((len(table), 0), dtype=np.float32)
        if "z" in table.column_names:
            z = table["z"].combine_chunks().values.to_numpy(zero_copy_only=False).reshape(n, -1)
        noise = None
        if about["noise"]:
            noise = Noise.cat([Noise(**read_tensors(path.with_name(name), MEND_NOISE)) for name in about["noise"]])
        paths, sums = table["path"].to_pylist(), table["sha256"].to_pylist()
        return Codes(
            z=torch.from_numpy(np.array(z, dtype=np.float32)),
            noise=noise,
            codec=about["codec"],
            timesteps=tuple(about["timesteps"]),
            shape=tuple(about["shape"]),
            model=about["model"],
            backend=about["backend"],
            paths=tuple(paths) if any(paths) else (),
            sha256=tuple(sums) if any(sums) else (),
        )


def between(a: Codes, b: Codes, share: Float[Tensor, " m"]) -> Codes:
    """Codes on the way from a (share 0) to b (share 1), the ends to the bit; a and b of one image each.

    z is interpolated on a straight line, x_T on a great circle, and what belongs to x_T (carry, offsets) on a straight
    line too. Raises ZsemError where one has no noise, or they differ in model, codec or grid.
    """
    if len(a) != 1 or len(b) != 1:
        raise ValueError(f"interpolation is between two images, not between {len(a)} and {len(b)}")
    if a.noise is None or b.noise is None:
        raise ZsemError("interpolation needs the noise of both images: encode them with noise")
    try:
        ends = Codes.cat([replace(end, paths=(), sha256=()) for end in (a, b)])
    except ValueError as error:
        raise ZsemError(f"{error}: encode both images in the same way") from None

    def line(pair: Tensor) -> Tensor:
        return torch.lerp(pair[:1], pair[1:], share.to(pair).view(-1, *(1,) * (pair.ndim - 1)))

    assert ends.noise is not None
    noise = replace(ends.noise.map(line), x_T=slerp(a.noise.x_T, b.noise.x_T, share))
    return replace(ends, z=line(ends.z), noise=noise)


def slerp(a: Float[Tensor, "n ..."], b: Float[Tensor, "n ..."], share: Float[Tensor, " m"]) -> Float[Tensor, "m ..."]:
    """Spherical interpolation from a (share 0) to b (share 1), each sample as one vector (DDIM, appendix D.5).

    It keeps the length of normal noise, which a straight line does not. One pair for all shares, n = 1, or one each.
    """
    angle = torch.nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double()).clamp(-1, 1).acos()
    share = share.to(angle)
    # vectors in one direction (angle 0) leave a straight line
    of_a, of_b = (
        torch.where(angle.sin().abs() < 1e-6, part, (part * angle).sin() / angle.sin()) for part in (1 - share, share)
    )
    shape = (-1,) + (1,) * (a.ndim - 1)
    return of_a.to(a.dtype).view(shape) * a + of_b.to(a.dtype).view(shape) * b
