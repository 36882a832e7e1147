import numpy as np
import pytest
import torch

from zsem.hspace.singular import LinearMap, jacobian_of, top_triplets, within_null_space
from zsem.values.draws import generator, normal

MATRIX = torch.from_numpy(generator(8, 1).standard_normal((15, 3, 2, 4)) * np.geomspace(4, 0.1, 4))
FLAT = MATRIX.flatten(1)


@pytest.fixture
def linear():
    return LinearMap(
        shape=(3, 2, 4),
        push=lambda v: (FLAT @ v.flatten()).view(5, 3),
        pull=lambda u: (FLAT.T @ u.flatten()).view(3, 2, 4),
    )


def check(found, matrix, number, tolerance=1e-6):
    _, sigma, rows = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(found.sigma, sigma[:number], atol=tolerance * float(sigma[0]), rtol=0)
    flat = found.right.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(number, dtype=torch.float64), atol=1e-9, rtol=0)
    assert ((flat * rows[:number]).sum(1).abs() > 1 - tolerance).all()
    assert (flat.gather(1, flat.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("number", [1, 3, 15])
def test_triplets_are_those_of_the_matrix(linear, number):
    found = top_triplets(linear, number, tolerance=1e-10)
    assert found.residual <= 1e-10
    check(found, FLAT, number)


def test_the_tolerance_ends_the_iteration_and_the_residual_tells_how_well(linear):
    rough, fine = (top_triplets(linear, 2, tolerance=tolerance) for tolerance in (0.1, 1e-8))
    assert rough.products < fine.products
    assert fine.residual <= 1e-8 < rough.residual <= 0.1
    cut = top_triplets(linear, 2, tolerance=1e-12, iterations=1)
    v = cut.right.flatten(1).T
    image = FLAT @ v
    missing = (FLAT.T @ image / cut.sigma - v * cut.sigma).norm(dim=0).max() / cut.sigma[0]
    assert cut.residual == pytest.approx(float(missing), rel=1e-6) and cut.products == 8


def test_the_start_is_named_by_the_seed(linear):
    a, b, c = (top_triplets(linear, 2, iterations=1, seed=seed).right for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_rest_is_left_out(linear):
    rest = torch.linalg.svd(FLAT, full_matrices=False)[2][:2].view(2, 3, 2, 4)
    found = top_triplets(within_null_space(linear, rest), 2, tolerance=1e-10)
    flat = rest.flatten(1)
    assert (found.right.flatten(1) @ flat.T).abs().max() < 1e-9
    check(found, FLAT - (FLAT @ flat.T) @ flat, 2)


def test_more_than_there_are_is_a_mistake(linear):
    for number in (0, 16):
        with pytest.raises(ValueError, match=r"24 (to 15 )?numbers"):
            top_triplets(linear, number)


def test_a_jacobian_is_that_of_autograd_through_attention_too():
    weights = normal([(9, 0)], (6, 18))[0].double()

    def f(x):
        qkv = (x @ weights).view(1, 1, 4, 3, 6)
        out = torch.nn.functional.scaled_dot_product_attention(*qkv.unbind(3))
        return torch.nn.functional.group_norm(out[0, 0].T[None], 2).sin()

    at = normal([(9, 1)], (4, 6))[0].double()
    matrix = torch.autograd.functional.jacobian(f, at).reshape(24, 24)
    linear = jacobian_of(f, at)
    for i in range(24):
        unit = torch.eye(24, dtype=torch.float64)[i]
        torch.testing.assert_close(linear.push(unit.view(4, 6)).flatten(), matrix[:, i])
        torch.testing.assert_close(linear.pull(unit.view(1, 6, 4)).flatten(), matrix[i])
    check(top_triplets(linear, 2, tolerance=1e-9), matrix, 2)
