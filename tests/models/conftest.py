"""What tests of models that are trained here share: small images, and a loop without an audience."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from zsem.data.images import ImageSet
from zsem.models.base import Model
from zsem.training.loop import Loop
from zsem.values.objective import Objective

HELD_OUT = 297


@pytest.fixture(scope="session")
def tiny_digits() -> ImageSet:
    """Scikit-learn's handwritten digits as they are, 8 px and grey, the last 297 held out."""
    loaded: Any = load_digits()
    pixels = torch.from_numpy(loaded.images * 255 / 16).round().to(torch.uint8)[:, None]
    return ImageSet(
        pixels=pixels,
        paths=[f"{i:04d}.png" for i in range(len(pixels))],
        class_names=[],
        classes=torch.full((len(pixels),), -1),
        attributes={},
        splits=["train"] * (len(pixels) - HELD_OUT) + ["val"] * HELD_OUT,
        sha256=[""] * len(pixels),
        source="digits",
    )


@pytest.fixture(scope="session")
def quiet_loop() -> Callable[..., Loop]:
    """A loop that neither measures nor draws nor says anything."""

    def nothing(*_: object) -> None:
        """Nobody listens."""

    def make(model: Model, objective: Objective, settings: Loop.Config, folder: Path, **more: Any) -> Loop:
        folder.mkdir(exist_ok=True)
        return Loop(model, objective, settings, folder, measure=nothing, picture=nothing, say=nothing, **more)

    return make
