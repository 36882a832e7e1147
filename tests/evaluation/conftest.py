"""Small faces with their attributes, for what edits and judges."""

from pathlib import Path

import pytest

from zsem.data import builtin
from zsem.data.images import ImageSet, load_images
from zsem.training.judging import binary_attributes


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builtin.avatars(tmp_path_factory.mktemp("faces") / "set", number=300, size=16, workers=1)


@pytest.fixture(scope="module")
def images(faces: Path) -> ImageSet:
    return binary_attributes(load_images(faces, size=16))
