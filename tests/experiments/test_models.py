"""What the tables' models promise before they are trained: equal terms for twins, a folder for every recipe."""

from dataclasses import replace

import pytest
import torch
from experiments.models import finished, recipes

from zsem.training.families import FAMILIES
from zsem.values.errors import ZsemError


def parameters(name):
    preset = recipes()[name].preset
    with torch.device("meta"):
        return sum(p.numel() for p in FAMILIES[preset.kind].model(preset.model).parameters())


def test_the_twin_has_as_many_parameters_and_sees_as_many_images():
    assert parameters("avatars-64") < parameters("avatars-64-ddpm") < 1.02 * parameters("avatars-64")
    mine, twin = recipes()["avatars-64"], recipes()["avatars-64-ddpm"]
    assert (mine.images, mine.data, mine.preset.training) == (twin.images, twin.data, twin.preset.training)


def test_a_packaged_model_is_small_enough():
    assert 2 * parameters("avatars-64") < 25e6  # bytes in float16


def test_a_recipe_has_a_folder_of_its_own():
    recipe = recipes()["cifar10-ddpm"]
    changed = replace(recipe, preset=replace(recipe.preset, training=replace(recipe.preset.training, seed=1)))
    folders = {one.run("x") for one in (recipe, changed, replace(recipe, images=1), replace(recipe, conditional=False))}
    assert len(folders) == 4
    assert recipe.run("x") == replace(recipe).run("x")


def test_what_is_not_trained_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ZsemError, match=r"avatars-64 is not trained yet: `python -m experiments\.models train avatars-64`"
    ):
        finished("avatars-64")
