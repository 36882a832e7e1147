"""Files that are written here byte by byte, as the format's description says."""

import json

import numpy as np
import pytest
import torch

from zsem.nets.tfjs import read_weights
from zsem.values.errors import ZsemError

MEND = "fetch it again"


def write(folder, groups, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    path = folder / "manifest.json"
    path.write_text(json.dumps(groups))
    return path


def entry(name, shape, **more):
    return {"name": name, "shape": shape, "dtype": "float32", **more}


def test_numbers_and_dimensions(tmp_path):
    eight = {"quantization": {"dtype": "uint8", "scale": 0.5, "min": -3.0}}
    sixteen = {"quantization": {"dtype": "uint16", "scale": 0.001, "min": 0.0}}
    filters = np.arange(2 * 3 * 4 * 5, dtype=np.uint8)
    groups = [
        {
            "paths": ["a.bin", "b.bin"],
            "weights": [entry("c/filters", [2, 3, 4, 5], **eight), entry("c/bias", [2]), entry("one", [])],
        },
        {"paths": ["c.bin"], "weights": [entry("d/depthwise_filter", [2, 3, 4, 1]), entry("fc", [2, 3], **sixteen)]},
    ]
    first = filters.tobytes() + np.array([1.5, -2.5, 7], "<f4").tobytes()
    depthwise = np.arange(24, dtype="<f4")
    second = depthwise.tobytes() + np.arange(60000, 60006).astype("<u2").tobytes()
    manifest = write(tmp_path, groups, {"a.bin": first[:50], "b.bin": first[50:], "c.bin": second})
    weights = read_weights(manifest, MEND)
    assert {name: list(tensor.shape) for name, tensor in weights.items()} == {
        "c/filters": [5, 4, 2, 3],
        "c/bias": [2],
        "one": [],
        "d/depthwise_filter": [4, 1, 2, 3],
        "fc": [3, 2],
    }
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in weights.values())
    for y, x, i, o in np.ndindex(2, 3, 4, 5):
        place = ((y * 3 + x) * 4 + i) * 5 + o
        assert weights["c/filters"][o, i, y, x] == place * 0.5 - 3
        assert weights["d/depthwise_filter"][i, 0, y, x] == (y * 3 + x) * 4 + i
    assert weights["c/bias"].tolist() == [1.5, -2.5]
    assert weights["one"].item() == 7
    assert torch.allclose(weights["fc"], torch.tensor([[60.0, 60.003], [60.001, 60.004], [60.002, 60.005]]))


@pytest.mark.parametrize(
    ("groups", "files", "sentence"),
    [
        ([{"paths": ["a.bin"], "weights": [entry("x", [3])]}], {"a.bin": bytes(11)}, "12 bytes, not 11; fetch it"),
        ([{"paths": ["a.bin"], "weights": [entry("x", [3])]}], {"a.bin": bytes(13)}, "12 bytes, not 13; fetch it"),
        ([{"paths": ["a.bin"], "weights": [entry("x", [3])]}], {}, "a.bin is missing; fetch it again"),
        ([{"paths": ["a.bin"], "weights": [entry("x", [-3])]}], {}, r"0\.weights\.0\.shape\.0: .*; fetch it again"),
        ([{"paths": ["a.bin"]}], {}, r"no manifest of weights \(0\.weights: Field required\); fetch it again"),
        ([{"paths": ["."], "weights": [entry("x", [3])]}], {}, "cannot be read .Is a directory.; fetch it again"),
        (
            [{"paths": ["a.bin"], "weights": [entry("x", [3], quantization={"dtype": "int4", "scale": 1, "min": 0})]}],
            {},
            "'uint8' or 'uint16'; fetch it again",
        ),
    ],
)
def test_what_is_wrong_with_the_files(tmp_path, groups, files, sentence):
    with pytest.raises(ZsemError, match=sentence.replace("'uint16';", r"'uint16'\);")):
        read_weights(write(tmp_path, groups, files), MEND)


def test_a_manifest_that_is_no_json_or_not_there(tmp_path):
    (tmp_path / "m.json").write_bytes(b"\xff{")
    with pytest.raises(ZsemError, match=r"m\.json is no manifest of weights \(its text: .*\); fetch it again$"):
        read_weights(tmp_path / "m.json", MEND)
    with pytest.raises(ZsemError, match=r"n\.json is missing; fetch it again$"):
        read_weights(tmp_path / "n.json", MEND)
