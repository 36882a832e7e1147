from dataclasses import replace

import pytest
import torch

from zsem.values.direction import Direction, Shift, load_directions, save_directions
from zsem.values.draws import normal


def made(seed=0, timesteps=(900.0, 500.0, 100.0), name="smile"):
    vectors = normal([(seed, i) for i in range(max(len(timesteps), 1))], (4, 2, 2))
    return Direction(
        space="h", vector=vectors if timesteps else vectors[0], unit="one", name=name, model="abc", timesteps=timesteps
    )


def test_a_direction_in_h_is_a_shift_that_is_interpolated_between_its_timesteps():
    one = made()
    assert isinstance(one, Shift)
    t = torch.tensor([999.0, 900.0, 600.0, 500.0, 200.0, 100.0, 3.0])
    found = one(torch.zeros(7, 4, 2, 2), t)
    first, second, third = one.vector
    wanted = [first, first, 0.25 * first + 0.75 * second, second, 0.25 * second + 0.75 * third, third, third]
    torch.testing.assert_close(found, torch.stack(wanted))
    assert torch.equal(found[1], first) and torch.equal(found[3], second) and torch.equal(found[5], third)
    single = replace(one, vector=one.vector[:1], timesteps=(500.0,))
    assert torch.equal(single(torch.zeros(2, 4, 2, 2), t[:2]), first.expand(2, -1, -1, -1))
    pooled = replace(made(timesteps=()), vector=torch.ones(4, 1, 1))
    assert torch.equal(pooled(torch.zeros(2, 4, 2, 2), t[:2]), torch.ones(2, 4, 2, 2))
    assert torch.equal(one.mean().at(t[:1])[0], one.vector.mean(0)) and not one.mean().timesteps


def test_directions_of_different_timesteps_add_up_exactly():
    one, other, everywhere = made(), made(1, (800.0, 500.0), "hat"), made(2, (), "beard")
    t = torch.tensor([950.0, 850.0, 800.0, 640.0, 300.0, 20.0])
    total = one + 2 * other - everywhere
    assert total.timesteps == (900.0, 800.0, 500.0, 100.0)
    torch.testing.assert_close(total.at(t), one.at(t) + 2 * other.at(t) - everywhere.at(t))
    assert total.name == "smile + hat - beard"


def test_what_is_left_without_others_is_orthogonal_to_them():
    one, two, three = made(), made(1), made(2, (900.0, 500.0, 100.0))
    rest = one.without(two, three)
    for other in (two, three):
        assert abs(float(rest.vector.flatten() @ other.vector.flatten())) < 1e-4
    dot = lambda a, b: a.vector.double().flatten() @ b.vector.double().flatten()  # noqa: E731
    gram = torch.tensor([[dot(a, b) for b in (two, three)] for a in (two, three)])
    shares = torch.linalg.solve(gram, torch.tensor([dot(two, one), dot(three, one)]))
    wanted = one.vector.double() - shares[0] * two.vector - shares[1] * three.vector
    torch.testing.assert_close(rest.vector, wanted.float())
    assert rest.without(two).vector.sub(rest.vector).abs().max() < 1e-6


def test_directions_in_h_are_stored(tmp_path):
    one, two = made(), made(1, name="hat")
    read = load_directions(save_directions(tmp_path / "h.safetensors", [one, two]))
    assert [(d.name, d.space, d.timesteps, d.model) for d in read] == [
        ("smile", "h", one.timesteps, "abc"),
        ("hat", "h", one.timesteps, "abc"),
    ]
    assert torch.equal(read[1].vector, two.vector)
    (everywhere,) = load_directions(save_directions(tmp_path / "all.safetensors", [made(timesteps=())]))
    assert everywhere.timesteps == () and everywhere.vector.shape == (4, 2, 2)


def test_the_logit_of_a_direction_in_h_is_that_of_the_whole_map():
    one = replace(made(timesteps=()), slope=2.0, intercept=0.5)
    h = normal([(7, 0), (7, 1)], (4, 2, 2))
    torch.testing.assert_close(one.logit(h), 2 * (h * one.vector).sum(dim=(1, 2, 3)) + 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"space": "z"},
        {"timesteps": (1.0,)},
        {"timesteps": (100.0, 500.0, 900.0)},
        {"vector": torch.zeros(4)},
        {"timesteps": (), "vector": torch.zeros(3, 4, 2, 2)},
    ],
)
def test_a_direction_has_the_shape_of_its_space(wrong):
    with pytest.raises(ValueError, match="direction"):
        replace(made(), **wrong)


def test_a_direction_in_z_shifts_no_bottleneck():
    z = Direction(space="z", vector=torch.zeros(4), unit="one", name="smile", model="abc")
    with pytest.raises(ValueError, match="only those in h"):
        z.at(torch.zeros(1))
