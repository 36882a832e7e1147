import numpy as np
import pytest
import torch

from zsem.hspace.collect import Collected
from zsem.hspace.components import pca
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

LEVELS = (900.0, 400.0)


@pytest.fixture(scope="module")
def collected():
    rng = generator(5, 1)
    scales = np.linspace(3, 0.1, 12)
    factors = rng.standard_normal((30, 12)) * scales
    # the same factors at both timesteps, turned
    h = np.stack([factors @ np.linalg.qr(rng.standard_normal((12, 12)))[0] for _ in LEVELS], axis=1)
    return Collected(h=h.reshape(30, 2, 3, 2, 2).astype(np.float32), timesteps=LEVELS, model="abc")


def svd(x):
    x = x.astype(np.float64)
    _, sizes, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return sizes / np.sqrt(len(x)), rows


def test_joint_components_are_those_of_all_timesteps_side_by_side(collected):
    sizes, rows = svd(collected.h.reshape(30, -1))
    found = pca(collected, 4)
    assert [one.name for one in found] == ["pca_0", "pca_1", "pca_2", "pca_3"]
    for one, size, row in zip(found, sizes, rows, strict=False):
        flat = one.vector.flatten().numpy()
        sign = np.sign(row[np.abs(row).argmax()])
        np.testing.assert_allclose(flat, sign * size * row, atol=1e-5)
        assert one.timesteps == LEVELS and one.space == "h" and one.unit == "standard deviation"


def test_components_of_single_timesteps_agree_in_sign(collected):
    found = pca(collected, 3, joint=False)
    scores = []
    for step in range(2):
        x = collected.h[:, step].reshape(30, -1)
        sizes, rows = svd(x)
        for j, one in enumerate(found):
            flat = one.vector[step].flatten().numpy()
            np.testing.assert_allclose(np.abs(flat), sizes[j] * np.abs(rows[j]), atol=1e-5)
        scores.append(np.stack([(x - x.mean(0)) @ one.vector[step].flatten().numpy() for one in found]))
    assert (np.einsum("kn,kn->k", *scores) > 0).all()
    assert all(float(one.vector[0].flatten()[one.vector[0].abs().argmax()]) > 0 for one in found)


def test_components_are_the_same_every_time_and_no_more_than_there_are(collected):
    for joint in (True, False):
        first, second = (pca(collected, 3, joint=joint) for _ in range(2))
        assert all(torch.equal(a.vector, b.vector) for a, b in zip(first, second, strict=True))
    with pytest.raises(ZsemError, match="there are 29 components here, not 30"):
        pca(collected, 30)
    with pytest.raises(ZsemError, match="does not vary in 13 directions"):
        pca(collected, 13, joint=False)
