"""Trained weights from strangers' files."""

from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import save_file

from engines.bundle import hash_file
from engines.errors import UserError
from exporter import router
from exporter.recipe import Recipe
from exporter.reducer import Grid, Reducer, Shape
from exporter.router import with_router

SHAPE = Shape(16, Grid(4, 4))


@dataclass(frozen=True)
class Learning(Reducer):
    title = "toy"
    paper = "toy"
    needs = frozenset({"router"})
    got: tuple = field(default=())

    def trained(self, tensors, facts, shape):
        return Learning(got=(tensors, facts, shape))


def recipe(**aux):
    return Recipe(method="toy", aux=aux)


def test_the_method_gets_its_weights_in_fp32_with_what_the_file_says(tmp_path):
    path = tmp_path / "router.safetensors"
    save_file({"w": torch.ones(2, dtype=torch.float16)}, path, metadata={"activation": "relu"})
    made, digest = with_router(recipe(router=str(path)), Learning(), SHAPE)
    tensors, facts, shape = made.got
    assert tensors["w"].dtype == torch.float32
    assert (facts, shape, digest) == ({"activation": "relu"}, SHAPE, hash_file(path))


def test_methods_without_weights_stay_as_they_are():
    plain = Reducer()
    assert with_router(recipe(), plain, SHAPE) == (plain, None)


def test_a_file_that_nobody_wants_is_refused():
    with pytest.raises(UserError, match="--aux router: --method toy has no trained weights; leave it out"):
        with_router(recipe(router="x"), Reducer(), SHAPE)


def test_missing_weights_say_how_to_give_them():
    with pytest.raises(UserError, match=r"--method toy: it needs trained weights: give --aux router=FILE.safetensors"):
        with_router(recipe(), Learning(), SHAPE)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        with_router(recipe(router=str(tmp_path / "none")), Learning(), SHAPE)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match="not a safetensors file"):
        with_router(recipe(router=str(bad)), Learning(), SHAPE)


def test_files_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(router, "LARGEST", 8)
    path = tmp_path / "router.safetensors"
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(UserError, match="larger than 8 bytes"):
        with_router(recipe(router=str(path)), Learning(), SHAPE)
