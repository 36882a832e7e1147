"""The list of commands; what each does is for the tests of its own."""

import shutil

import pytest
from experiments.every_command import commands, never_run

from zsem.data.builtin import digits
from zsem.data.images import load_images
from zsem.values.errors import ZsemError


@pytest.fixture
def folder(tmp_path):
    return digits(tmp_path / "digits", size=8)


def test_every_command_is_run_on_the_images(folder, tmp_path):
    every = commands(load_images(folder, size=8), tmp_path, 1, "nano")
    assert not never_run(every)
    assert never_run([words for words in every if words[0] != "mix"]) == {"mix"}
    assert "--set 1=0.9" in " ".join(next(words for words in every if words[0] == "edit"))


def test_images_without_classes_are_refused(folder, tmp_path):
    for kind in range(1, 10):
        for place in ("train", "val"):
            shutil.rmtree(folder / place / str(kind), ignore_errors=True)
    with pytest.raises(ZsemError, match="two classes or more"):
        commands(load_images(folder, size=8), tmp_path, 1, "nano")
