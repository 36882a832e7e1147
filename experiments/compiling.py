"""Networks that are evaluated ten thousand times and more, compiled."""

from __future__ import annotations

import contextlib
import shutil

import torch
import torch._inductor.config as inductor
from torch import nn

WORTH_COMPILING = 200
"""So many images that are sampled or coded take longer than compiling what does it."""


def compile_network(network: nn.Module, images: int) -> None:
    """Compile a network for calls under no_grad: a quarter to a half faster on a CPU, after a minute.

    Its weights are laid out anew and copied as constants, hence it must not be trained any more. Nothing happens for a
    few images, without a C++ compiler, nor on a GPU, which was not measured.
    """
    if images >= WORTH_COMPILING and next(network.parameters()).device.type == "cpu" and shutil.which("g++"):
        inductor.freezing = True  # for the process: as an option of one network, tracing does not see it
        network.to(memory_format=torch.channels_last)
        network.compile(dynamic=False)


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """For a few images in a batch of another size, which would be compiled for once more."""
    return torch.compiler.set_stance("force_eager")
