from dataclasses import FrozenInstanceError

import pytest

from exporter.recipe import Recipe


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (Recipe(keep="64"), "demo-fastervlm-64"),
        (Recipe(model="demo:llava-1.5", keep="11%"), "demo-llava-1.5-fastervlm-11pct"),
        (Recipe(model="llava-hf/llava-1.5-7b-hf", keep="0.11"), "llava-1.5-7b-hf-fastervlm-0.11"),
        (Recipe(model="/data/checkpoints/mine/", keep="64"), "mine-fastervlm-64"),
        (Recipe(method="none"), "demo-none"),
    ],
)
def test_names_tell_exports_apart(recipe, name):
    assert recipe.name == name
    assert "/" not in recipe.name
    assert ":" not in recipe.name


def test_a_recipe_is_frozen():
    recipe = Recipe()
    with pytest.raises(FrozenInstanceError):
        recipe.keep = "1"


def test_recipes_do_not_share_their_params():
    assert Recipe().params is not Recipe().params
