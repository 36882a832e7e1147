"""Learned shifts as files: to the bit, and side by side with directions."""

import pytest
import torch

from zsem.models.base import Model
from zsem.models.shift import LearnedShift, load_shifts
from zsem.nets.shift import ShiftNet
from zsem.values.direction import Direction, save_directions
from zsem.values.errors import ZsemError


def test_a_learned_shift_is_a_folder_that_says_what_it_is_for(tmp_path):
    config = LearnedShift.Config(
        name="smile", model="0123456789abcdef", net=ShiftNet.Config(channels=8, waves=4, embed_channels=6), t_edit=200.0
    )
    shift = LearnedShift(config)
    shift.save(tmp_path / "smile")
    (again,) = load_shifts(tmp_path / "smile")
    assert isinstance(again, LearnedShift) and again.config == config
    assert (again.name, again.model) == ("smile", "0123456789abcdef")
    h, t = torch.randn(2, 8, 4, 4), torch.tensor([1.0, 900.0])
    assert torch.equal(again(h, t), shift(h, t))
    assert isinstance(Model.from_pretrained(tmp_path / "smile"), LearnedShift)


def test_directions_are_read_in_the_same_way(tmp_path):
    directions = [
        Direction(space="h", vector=torch.ones(4, 1, 1) * i, unit="one", name=f"n{i}", model="m") for i in range(2)
    ]
    path = save_directions(tmp_path / "two.safetensors", directions)
    assert [one.name for one in load_shifts(path)] == ["n0", "n1"]


def test_what_is_no_shift_is_named(tmp_path, small_model):
    with pytest.raises(ZsemError, match="neither a file of directions nor a folder"):
        load_shifts(tmp_path / "nothing")
    small_model.save(tmp_path / "model")
    with pytest.raises(ZsemError, match="'autoencoder', and a LearnedShift is wanted"):
        load_shifts(tmp_path / "model")
