"""Codes and their files."""

import os
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsem.values import codes as codes_module
from zsem.values import draws
from zsem.values.codes import Codes, Noise, between, slerp
from zsem.values.errors import ZsemError


def some_codes(n: int = 5, *, offsets: bool = False) -> Codes:
    noise = Noise(
        x_T=draws.normal([(0, i) for i in range(n)], (3, 4, 4)),
        carry=None if offsets else draws.normal([(1, i) for i in range(n)], (3, 4, 4)),
        offsets=draws.normal([(2, i) for i in range(n)], (2, 3, 4, 4)) if offsets else None,
    )
    return Codes(
        z=draws.normal([(3, i) for i in range(n)], (7,)),
        noise=noise,
        timesteps=(999.0, 500.0),
        shape=(3, 4, 4),
        model="abc",
        backend="here",
        paths=tuple(f"{i}.png" for i in range(n)),
        sha256=tuple(f"{i:064d}" for i in range(n)),
    )


def same(a: Codes, b: Codes) -> bool:
    assert a.noise is not None
    assert b.noise is not None
    tensors = a.noise.tensors()
    assert tensors.keys() == b.noise.tensors().keys()
    return (
        torch.equal(a.z, b.z)
        and all(torch.equal(tensors[name], tensor) for name, tensor in b.noise.tensors().items())
        and (a.paths, a.sha256, a.model, a.backend, a.codec, a.timesteps, a.shape)
        == (b.paths, b.sha256, b.model, b.backend, b.codec, b.timesteps, b.shape)
    )


@pytest.mark.parametrize("offsets", [False, True])
def test_a_file_gives_back_the_same_codes(tmp_path, offsets):
    codes = some_codes(offsets=offsets)
    assert same(Codes.load(codes.save(tmp_path / "deep" / "codes.parquet")), codes)


def test_noise_lies_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_module, "SHARD_IMAGES", 2)
    codes = some_codes(5)
    codes.save(tmp_path / "codes.parquet")
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert same(Codes.load(tmp_path / "codes.parquet"), codes)


def test_z_stays_float32_where_noise_is_float16(tmp_path):
    codes = some_codes()
    loaded = Codes.load(codes.save(tmp_path / "codes.parquet", dtype=torch.float16))
    assert torch.equal(loaded.z, codes.z)
    assert loaded.noise is not None
    assert loaded.noise.x_T.dtype == torch.float16


def test_the_table_can_be_read_by_others(tmp_path):
    table = pq.read_table(some_codes().save(tmp_path / "codes.parquet"))
    assert table.column_names == ["path", "sha256", "z", "model", "backend"]
    assert str(table.schema.field("z").type) == "fixed_size_list<element: float>[7]"


def test_codes_without_noise(tmp_path):
    codes = Codes(z=torch.randn(2, 3), shape=(1, 2, 2))
    loaded = Codes.load(codes.save(tmp_path / "z.parquet"))
    assert loaded.noise is None
    assert loaded.paths == ()
    assert list(tmp_path.iterdir()) == [tmp_path / "z.parquet"]


@given(st.data())
def test_parts_join_to_the_whole(data):
    codes = some_codes(6)
    cut = data.draw(st.integers(1, 5))
    assert same(Codes.cat([codes[:cut], codes[cut:]]), codes)
    order = data.draw(st.permutations(range(6)))
    inverse = [order.index(i) for i in range(6)]
    assert same(codes[order][inverse], codes)


def test_unlike_codes_do_not_join():
    with pytest.raises(ValueError, match="cannot be joined"):
        Codes.cat([some_codes(), some_codes(offsets=True)])
    with pytest.raises(ValueError, match="different models"):
        Codes.cat([some_codes(), Codes(z=torch.zeros(1, 7), shape=(3, 4, 4))])


def test_bad_files_are_told_in_a_sentence(tmp_path):
    with pytest.raises(ZsemError, match="zsem encode"):
        Codes.load(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(ZsemError, match="not a Parquet file"):
        Codes.load(tmp_path / "text.parquet")
    path = some_codes().save(tmp_path / "codes.parquet")
    foreign = pq.read_table(path).replace_schema_metadata({})
    pq.write_table(foreign, tmp_path / "foreign.parquet")
    with pytest.raises(ZsemError, match="not written by zsem"):
        Codes.load(tmp_path / "foreign.parquet")
    shard = next(tmp_path.glob("codes.noise*"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ZsemError, match="is damaged"):
        Codes.load(path)
    shard.unlink()
    with pytest.raises(ZsemError, match="need their noise file"):
        Codes.load(path)


def test_other_codes_under_the_same_name_replace_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_module, "SHARD_IMAGES", 2)
    path = some_codes(5).save(tmp_path / "codes.parquet")
    old = {file: file.read_bytes() for file in tmp_path.iterdir()}
    other = some_codes(6)[1:4]
    other.save(path)
    assert same(Codes.load(path), other)
    assert len(list(tmp_path.iterdir())) == 1 + 2
    # a run that is killed before the table is renamed leaves the old codes whole, beside some new shards
    for file, data in old.items():
        file.write_bytes(data)
    assert same(Codes.load(path), some_codes(5))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole
path = Path(sys.argv[1])
write_whole(path, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # the kernel refuses to let files grow, as on a full disk
try:
    write_whole(path, b"n" * 5000)
except ZsemError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_full_disk_loses_nothing(tmp_path):
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    assert "could not write" in done.stdout
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_slerp_keeps_the_length_of_noise_and_turns_evenly():
    a, b = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = a / a.norm(), b / b.norm()
    way = slerp(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(way[[0, -1]], torch.cat([a, b]))
    angles = torch.nn.functional.cosine_similarity(way[1:].flatten(1), way[:-1].flatten(1)).acos()
    torch.testing.assert_close(angles, angles[:1].expand(4), rtol=1e-6, atol=0)
    torch.testing.assert_close(way.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))
    # of unit vectors it is Shoemake's, on the arc between them
    x, y = torch.eye(4, dtype=torch.float64)[:2].view(2, 1, 1, 2, 2)
    third = slerp(x, y, torch.tensor([1 / 3]))
    assert third.flatten().tolist() == pytest.approx([3**0.5 / 2, 0.5, 0, 0], abs=1e-7)
    torch.testing.assert_close(slerp(a, 2 * a, torch.tensor([0.5])), 1.5 * a)


@pytest.mark.parametrize("offsets", [False, True])
def test_the_way_between_two_codes(offsets):
    codes = some_codes(2, offsets=offsets)
    a, b = codes[:1], codes[1:]
    way = between(a, b, torch.linspace(0, 1, 5))
    assert (len(way), way.paths, way.timesteps, way.model) == (5, (), codes.timesteps, codes.model)
    assert way.noise is not None and a.noise is not None and b.noise is not None
    for place, end in ((0, a), (-1, b)):
        assert torch.equal(way.z[place], end.z[0])
        assert end.noise is not None
        for name, tensor in end.noise.tensors().items():
            assert torch.equal(way.noise.tensors()[name][place], tensor[0])
    torch.testing.assert_close(way.z[1], 0.75 * a.z[0] + 0.25 * b.z[0])
    torch.testing.assert_close(way.noise.x_T, slerp(a.noise.x_T, b.noise.x_T, torch.linspace(0, 1, 5)))
    rest = "offsets" if offsets else "carry"
    ends = [end.noise.tensors()[rest][0] for end in (a, b) if end.noise is not None]
    torch.testing.assert_close(way.noise.tensors()[rest][3], 0.25 * ends[0] + 0.75 * ends[1])


def test_there_is_no_way_between_codes_that_do_not_fit():
    codes, share = some_codes(2), torch.tensor([0.5])
    with pytest.raises(ZsemError, match="encode both images in the same way"):
        between(codes[:1], replace(codes[1:], timesteps=(999.0, 400.0)), share)
    with pytest.raises(ZsemError, match="encode both images in the same way"):
        between(codes[:1], some_codes(1, offsets=True), share)
    with pytest.raises(ZsemError, match="encode them with noise"):
        between(codes[:1], replace(codes[1:], noise=None), share)
    with pytest.raises(ValueError, match="not between 2 and 1"):
        between(codes, codes[:1], share)
