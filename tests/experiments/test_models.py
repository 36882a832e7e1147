"""What the tables' models promise before they are trained: equal terms for twins, a folder for every recipe."""

import json
from dataclasses import replace

import pytest
import torch
from experiments.models import Z_DIMS, ablations, finished, in_plain_v, recipes, shared_run
from experiments.runs import Recipe, in_order, train, trained

from zsem.api import load
from zsem.training.families import FAMILIES
from zsem.values.errors import ZsemError


def parameters(name):
    preset = recipes()[name].preset
    with torch.device("meta"):
        return sum(p.numel() for p in FAMILIES[preset.kind].model(preset.model).parameters())


def test_the_twin_has_as_many_parameters_and_sees_as_many_images():
    assert parameters("avatars-64") < parameters("avatars-64-ddpm") < 1.02 * parameters("avatars-64")
    mine, twin = recipes()["avatars-64"], recipes()["avatars-64-ddpm"]
    for one, other in ((mine, twin), (mine.init[1], twin.init[1])):
        assert (one.images, one.data, one.preset.training) == (other.images, other.data, other.preset.training)


def test_a_packaged_model_is_small_enough():
    assert 2 * parameters("avatars-64") < 25e6  # bytes in float16


def test_a_recipe_has_a_folder_of_its_own():
    recipe = recipes()["cifar10-ddpm"]
    changed = replace(recipe, preset=replace(recipe.preset, training=replace(recipe.preset.training, seed=1)))
    folders = {one.run("x") for one in (recipe, changed, replace(recipe, images=1), replace(recipe, conditional=False))}
    assert len(folders) == 4
    assert recipe.run("x") == replace(recipe).run("x")


def test_a_recipe_may_begin_with_another_model_under_settings_of_its_own(
    tmp_path, monkeypatch, two_hundred_faces, small_nano
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.runs.images_of", lambda data, cifar10: str(two_hundred_faces))
    first = Recipe(says="first", data="x", preset=in_plain_v(small_nano), images=128)
    second = Recipe(says="second", data="x", preset=small_nano, images=64, init=("first", first))
    assert list(in_order({"second": second})) == ["first", "second"]
    assert second.run("x") != replace(second, init=("first", replace(first, images=64))).run("x")
    train({"second": second}, None)
    before, after = trained(first, "first", ""), trained(second, "second", "")
    start = load(second.run("second") / "start")
    assert [model.config.sigma_data for model in (before, start, after)] == [1.0, 0.1, 0.1]
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, start.state_dict()[name])
    assert after.history["iterations"] == 1
    assert not torch.equal(after.unet.conv_out.weight, before.unet.conv_out.weight)


def test_what_is_not_trained_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ZsemError, match=r"avatars-64 is not trained yet: `python -m experiments\.models train avatars-64`"
    ):
        finished("avatars-64")


def test_a_model_that_comes_with_zsem_serves_where_none_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.models.packaged_models", lambda: ["avatars-64"])
    assert shared_run("avatars-64") == "avatars-64"
    with pytest.raises(ZsemError, match=r"avatars-64-vae is not trained yet"):
        shared_run("avatars-64-vae")
    recipe = recipes()["avatars-64"]
    run = recipe.run("avatars-64")
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"history": {"iterations": recipe.iterations}}))
    assert shared_run("avatars-64") == str(run)


def test_models_of_table_2_differ_in_the_length_of_z_alone():
    models = [ablations()[f"avatars-64-z{dims}"] for dims in Z_DIMS]
    assert [recipe.preset.model.z_dim for recipe in models] == [32, 64, 128, 256]
    equal = {replace(recipe.preset, model=replace(recipe.preset.model, z_dim=1)) for recipe in models}
    assert len(equal) == 1 and len({(recipe.data, recipe.images) for recipe in models}) == 1
    assert not set(ablations()) & set(recipes())
