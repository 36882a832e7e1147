"""Weights in the file format of TensorFlow.js: a JSON manifest beside binary files, quantised or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from zsem.values.errors import ZsemError


@dataclass(frozen=True)
class Quantization:
    """value = number * scale + min, with numbers of type `dtype` in the file."""

    dtype: Literal["uint8", "uint16"]
    scale: float
    min: float


@dataclass(frozen=True)
class Weight:
    """One tensor, in the order of TensorFlow: filters are [height, width, in, out]."""

    name: str
    shape: tuple[NonNegativeInt, ...]
    dtype: Literal["float32"]
    quantization: Quantization | None = None

    @property
    def stored(self) -> np.dtype:
        return np.dtype(self.quantization.dtype if self.quantization else self.dtype).newbyteorder("<")

    @property
    def number(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Group:
    """Files that, one after the other, hold the bytes of these weights, one after the other."""

    paths: tuple[str, ...]
    weights: tuple[Weight, ...]


def read_weights(manifest: Path, mend: str) -> dict[str, Float32[Tensor, "*shape"]]:
    """The tensors of a manifest by name, float32, in torch's order of dimensions.

    Filters [height, width, in, out] become [out, in, height, width], depthwise ones (named `.../depthwise_filter`)
    [channels, 1, height, width], matrices [in, out] become [out, in].

    ZsemError, which ends in `mend`: a file is missing or damaged, or of another size than the manifest says.
    """
    try:
        groups = TypeAdapter(tuple[Group, ...]).validate_json(_read(manifest, mend))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its text"
        raise ZsemError(f"{manifest} is no manifest of weights ({where}: {first['msg']}); {mend}") from None
    tensors: dict[str, Tensor] = {}
    for group in groups:
        data = b"".join(_read(manifest.parent / path, mend) for path in group.paths)
        expected = sum(weight.number * weight.stored.itemsize for weight in group.weights)
        if len(data) != expected:
            files = " and ".join(str(manifest.parent / path) for path in group.paths)
            raise ZsemError(f"{files} should have {expected:,} bytes, not {len(data):,}; {mend}")
        start = 0
        for weight in group.weights:
            tensors[weight.name] = _tensor(weight, data, start)
            start += weight.number * weight.stored.itemsize
    return tensors


def _read(path: Path, mend: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ZsemError(f"{path} is missing; {mend}") from None
    except OSError as error:
        raise ZsemError(f"{path} cannot be read ({error.strerror or error}); {mend}") from None


def _tensor(weight: Weight, data: bytes, start: int) -> Tensor:
    values = np.frombuffer(data, weight.stored, weight.number, start).astype(np.float64)
    if weight.quantization:
        values = values * weight.quantization.scale + weight.quantization.min
    tensor = torch.from_numpy(values.reshape(weight.shape)).float()
    if tensor.ndim == 4:
        depthwise = weight.name.endswith("/depthwise_filter")
        tensor = tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(3, 2, 0, 1)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return tensor.contiguous()
