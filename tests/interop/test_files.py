"""Checkpoints by what they hold."""

import hashlib

import pytest
import safetensors.torch
import torch

from zsem.interop.files import read_checkpoint
from zsem.values.errors import ZsemError

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int64)}


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_the_name_of_a_file_says_nothing(tmp_path, form, name):
    path = tmp_path / name
    if form == "safetensors":
        safetensors.torch.save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=form == "zip")
    checkpoint = read_checkpoint(str(path))
    assert checkpoint.content.keys() == TENSORS.keys()
    assert all(torch.equal(checkpoint.content[key], tensor) for key, tensor in TENSORS.items())
    assert checkpoint.path == path
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.stubs == ()


def test_stubs_are_named(tmp_path):
    torch.save(pytest.param, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").stubs == ("_pytest.mark.param",)


def test_no_truncated_file_is_taken(tmp_path):
    whole = safetensors.torch.save(TENSORS)
    path = tmp_path / "part.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ZsemError, match=r"is (damaged|empty|not a file)"):
            read_checkpoint(path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_what_is_no_file_is_named(tmp_path, make):
    make(tmp_path / "a.ckpt")
    with pytest.raises(ZsemError, match=r"a\.ckpt is (missing|a folder)"):
        read_checkpoint(tmp_path / "a.ckpt")
