"""Files of torch.save: what was saved comes back, and what is no such file is named in a sentence."""

import argparse
import enum
import io
import pickle
import re
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zsem.interop.allowed import Stub
from zsem.interop.pickles import read_pickle
from zsem.values import draws
from zsem.values.errors import ZsemError

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
NUMBERS = [
    *(torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


class ModelCheckpoint:
    """As Lightning 1.4 has one, whose class is a key of `callbacks`."""


class ModelType(enum.Enum):
    ddpm = "beatgans_ddpm"
    autoencoder = "beatgans_autoenc"


class AttributeDict(dict[str, Any]):
    """As Lightning keeps hyperparameters."""


def saved(path: Path, value: object, zipped: bool = True, protocol: int = 2) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, in shape, strides and type."""
    layouts = [(t.dtype, t.shape, t.stride(), t.storage_offset(), t.requires_grad, type(t)) for t in (a, b)]
    return layouts[0] == layouts[1] and bytes(a.untyped_storage().tolist()) == bytes(b.untyped_storage().tolist())


def sentence(path: Path) -> str:
    with pytest.raises(ZsemError) as caught:
        read_pickle(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@FORMATS
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_tensors_of_every_type(tmp_path, dtype, zipped):
    values = torch.arange(48, dtype=torch.uint8).view(dtype) if dtype is not torch.bool else torch.eye(3) > 0
    read = read_pickle(saved(tmp_path / "a.pt", {"values": values, "none": values[:0], "one": values[1]}, zipped))
    assert same(read.content["values"], values)
    assert read.content["none"].shape == values[:0].shape
    assert same(read.content["one"], values[1])
    assert read.stubs == ()


@FORMATS
def test_views_share_what_they_shared(tmp_path, zipped):
    whole = torch.arange(12.0).reshape(3, 4)
    views = {
        "whole": whole,
        "turned": whole.T,
        "part": whole[1:, ::2],
        "spread": whole[0, :1].expand(5),
        "alone": whole + 0,
    }
    content = read_pickle(saved(tmp_path / "a.pt", views, zipped)).content
    assert all(same(content[name], view) for name, view in views.items())
    content["whole"][1, 2] = -1
    assert content["turned"][2, 1] == content["part"][0, 1] == -1
    assert content["alone"][1, 2] == 6


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    path = saved(tmp_path / "a.pt", [torch.zeros(1000), torch.zeros(10)])
    before = path.read_bytes()
    first, second = read_pickle(path).content
    first += 1
    assert path.read_bytes() == before
    assert first.sum() == 1000
    assert second.untyped_storage().nbytes() == 40  # not all of the file: else saving it would save everything
    assert second._base is None


@FORMATS
def test_state_dicts_parameters_and_containers(tmp_path, zipped):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    noted, noted_parameter = torch.ones(2), torch.nn.Parameter(torch.zeros(3))
    noted.note = noted_parameter.note = "attributes are left out"
    value = {
        "state_dict": model.state_dict(),
        "noted": noted,
        "noted_parameter": noted_parameter,
        "parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "trained": model[0].weight,
        "gradient": torch.ones(2, requires_grad=True),
        "conj": torch.tensor([1 + 2j]).conj(),
        "torch": (torch.Size([1, 2]), torch.device("cuda", 1), torch.float16, torch.strided),
        "set": {1, "a", (2, None)},
        "plain": [
            frozenset({b"x"}),
            bytearray(b"\xff\x00"),
            b"",
            b"\x80",
            1 + 2j,
            slice(1, None),
            range(3),
            1.5,
            2**80,
        ],
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        "default": defaultdict(list, {"x": [1]}),
        "counter": Counter("aab"),
    }
    read = read_pickle(saved(tmp_path / "a.pt", value, zipped))
    assert read.stubs == ()
    content = read.content
    assert list(content) == list(value)
    for name in ("torch", "set", "plain", "ordered", "default", "counter"):
        assert content[name] == value[name]
        assert type(content[name]) is type(value[name])
    assert content["default"]["new"] == []
    assert type(content["state_dict"]) is OrderedDict
    assert content["state_dict"]._metadata == model.state_dict()._metadata
    fresh = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    fresh.load_state_dict(content["state_dict"])
    assert torch.equal(fresh[0].weight, model[0].weight)
    for name in ("parameter", "trained", "gradient", "noted", "noted_parameter"):
        assert same(content[name], value[name])
    assert torch.equal(content["conj"], value["conj"])


@pytest.mark.parametrize(("protocol", "spelling"), [(2, b"numpy._core"), (2, b"numpy.core"), (4, None), (5, None)])
def test_numpy_values(write_zip, protocol, spelling):
    value = {
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.complex128(1j), np.str_("né"), np.str_("")],
        "arrays": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(2, 3)), np.zeros((0, 2)), np.array(7)],
        "text": np.array(["a", "bcd"]),
        "dtypes": [np.dtype("f4"), np.dtype(bool), np.dtype("U7")],
    }
    data = pickle.dumps(value, protocol)
    if spelling:
        data, renamed = re.subn(rb"numpy\._?core", spelling, data)
        assert renamed == 2
    read = read_pickle(write_zip(data))
    assert read.stubs == ()
    for scalar, expected in zip(read.content["scalars"], value["scalars"], strict=True):
        assert (scalar, type(scalar)) == (expected, type(expected))
    for array, expected in zip(
        [*read.content["arrays"], read.content["text"]], [*value["arrays"], value["text"]], strict=True
    ):
        np.testing.assert_array_equal(array, expected)
        assert (array.dtype, array.flags.f_contiguous) == (expected.dtype, expected.flags.f_contiguous)
        array[...] = array.flat[0] if array.size else 0  # can be written to
    assert read.content["dtypes"] == value["dtypes"]


@FORMATS
def test_a_lightning_checkpoint_keeps_its_tensors(tmp_path, zipped):
    value = {
        "epoch": 3,
        "global_step": 7,
        "pytorch-lightning_version": "1.4.5",
        "state_dict": OrderedDict({"ema_model.out.weight": torch.ones(2), "x_T": torch.zeros(1, 3, 2, 2)}),
        "callbacks": {ModelCheckpoint: {"best_model_score": torch.tensor(1.0), "best_model_path": "a/last.ckpt"}},
        "hyper_parameters": AttributeDict(img_size=128, net_ch=128),
        "model_type": ModelType.autoencoder,
        "args": argparse.Namespace(batch=4, name="x"),
    }
    read = read_pickle(saved(tmp_path / "last.ckpt", value, zipped))
    content = read.content
    assert torch.equal(content["state_dict"]["ema_model.out.weight"], torch.ones(2))
    assert content["global_step"] == 7
    assert read.stubs == tuple(
        sorted(
            ["argparse.Namespace", *(f"{__name__}.{c.__name__}" for c in (ModelCheckpoint, ModelType, AttributeDict))]
        )
    )
    ((key, states),) = content["callbacks"].items()
    assert isinstance(key, type)
    assert issubclass(key, Stub)
    assert key.dotted == f"{__name__}.ModelCheckpoint"
    assert states["best_model_score"] == 1
    assert content["hyper_parameters"].items == {"img_size": 128, "net_ch": 128}
    assert content["model_type"].args == ("beatgans_autoenc",)
    assert content["args"].state == {"batch": 4, "name": "x"}


def test_a_whole_module_is_stubs_around_tensors(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch cannot find the source in some cases
        path = saved(tmp_path / "model.pt", torch.nn.Linear(2, 3), zipped=False)
    read = read_pickle(path)
    assert read.stubs == ("torch.nn.modules.linear.Linear",)
    assert read.content.state["_parameters"]["weight"].shape == (3, 2)


@FORMATS
def test_environment_variables_change_nothing(tmp_path, monkeypatch, zipped):
    path = saved(tmp_path / "a.pt", {"a": ModelType.ddpm, "b": torch.ones(1)}, zipped)
    expected = read_pickle(path).stubs
    for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.setenv(name, "1")
        assert read_pickle(path).stubs == expected


def test_files_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pt", torch.ones(3))
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_pickle(path).content, torch.ones(3))


def test_storages_that_lie_askew(tmp_path):
    original, moved = (
        saved(tmp_path / "a.pt", [torch.arange(3.0), torch.arange(5, dtype=torch.float64)]),
        tmp_path / "b.pt",
    )
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(moved, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    for got, expected in zip(read_pickle(moved).content, read_pickle(original).content, strict=True):
        assert torch.equal(got, expected)
        assert got.data_ptr() % expected.dtype.itemsize == 0


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


def tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "3")


def big_endian(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(1))
        archive.writestr("archive/byteorder", "big")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (torchscript, "is a TorchScript archive.*save the state_dict alone"),
        (tar, "is a tar archive.*save the state_dict alone"),
        (other_zip, "truncated or damaged .a zip archive without data.pkl.: download it again"),
        (big_endian, "big-endian.*save the state_dict"),
        (lambda path: path.write_bytes(b""), "is empty: download it again"),
        (lambda path: path.write_text("epoch 3\nloss 0.1\n"), "is not a file of torch.save"),
        (lambda path: path.write_text("<!DOCTYPE html><title>Google Drive"), "is a web page.*download it again"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle, but not of torch.save"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "is missing"),
    ],
)
def test_other_files_are_named(tmp_path, make, words):
    path = tmp_path / "last.ckpt"
    make(path)
    text = sentence(path)
    assert re.search(words, text), text


def test_compressed_archives_are_refused(write_zip):
    assert "is a compressed archive" in sentence(write_zip(pickle.dumps([1] * 99), compression=zipfile.ZIP_DEFLATED))


VALUE = {
    "a": torch.arange(6.0).reshape(2, 3).T,
    "b": OrderedDict(x=torch.ones(2, dtype=torch.int16)),
    "c": ModelType.ddpm,
}


@FORMATS
def test_no_truncated_file_is_taken(tmp_path, zipped):
    data = saved(tmp_path / "whole.pt", VALUE, zipped).read_bytes()
    path = tmp_path / "part.pt"
    for length in {*range(0, len(data), 1 + len(data) // 150), len(data) - 1}:
        path.write_bytes(data[:length])
        assert any(words in sentence(path) for words in ("truncated or damaged", "not a file of", "not of", "empty"))


@FORMATS
def test_flipped_bytes_give_a_sentence_or_a_value(tmp_path, zipped):
    data = saved(tmp_path / "whole.pt", VALUE, zipped).read_bytes()
    assert flipped(data, lambda damaged: written(tmp_path / "flipped.pt", damaged)) > 20


def test_flipped_bytes_of_a_pickle_with_the_right_checksum(tmp_path, write_zip):
    with zipfile.ZipFile(saved(tmp_path / "whole.pt", VALUE)) as archive:
        data = archive.read("whole/data.pkl")
        storages = {key: archive.read(f"whole/data/{key}") for key in "01"}
    assert flipped(data, lambda damaged: write_zip(damaged, storages)) > 100


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def flipped(data: bytes, write: Any, times: int = 400) -> int:
    """How many of the files with one to three wrong bytes were refused; any other exception fails the test."""
    refused = 0
    for number in range(times):
        rng = draws.generator(5, number)
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 1 + number % 3):
            damaged[place] = rng.integers(0, 256)
        try:
            read_pickle(write(bytes(damaged)))
        except ZsemError:
            refused += 1
    return refused
