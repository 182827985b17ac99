"""What of a recipe can be wrong whatever the model is, and the folders that it names."""

from __future__ import annotations

from pathlib import Path

from engines.errors import UserError
from engines.gpus import gpu_named
from exporter.checkpoint import find
from exporter.clip_aux import HINT, ROLE
from exporter.demo import DEMO, demo_checkpoint
from exporter.family import Family
from exporter.recipe import Recipe
from exporter.reducer import Reducer
from exporter.router import ROUTER


def check_recipe(recipe: Recipe) -> None:
    """What is wrong whatever the model is."""
    gpu_named(recipe.gpu)
    if recipe.method == "none" and recipe.keep is not None:
        raise UserError("--method none keeps every patch: leave --keep out")
    if "+" in recipe.method and recipe.keep is not None:
        raise UserError(f"--keep {recipe.keep}: --method {recipe.method} names its budgets; leave --keep out")
    if recipe.method != "none" and "+" not in recipe.method and recipe.keep is None:
        raise UserError(f"--method {recipe.method}: give a budget with --keep, such as --keep 64 or --keep 11%")
    if recipe.opset == 24 and recipe.kv != "static":
        raise UserError("--opset 24: what it brings is writes into static caches; add --kv static, or leave it out")
    for option, value in (("--max-batch", recipe.max_batch), ("--images", recipe.images)):
        if value < 1:
            raise UserError(f"{option} {value}: must be at least 1")


def folder_of(model: str) -> Path:
    """The checkpoint's directory: a built-in one, one of this machine, or one from the hub."""
    built_in = model == DEMO or model.startswith(f"{DEMO}:")
    return demo_checkpoint(model) if built_in else find(model)


def clip_folder(recipe: Recipe, reducer: Reducer, family: type[Family]) -> Path | None:
    """The auxiliary CLIP checkpoint, where the method reads one."""
    if unknown := sorted(set(recipe.aux) - {ROLE, ROUTER}):
        raise UserError(f"--aux {unknown[0]}: no method uses such a file; there are: {ROLE}, {ROUTER}")
    if "clip" not in reducer.needs:
        if ROLE in recipe.aux:
            raise UserError(f"--aux {ROLE}: --method {recipe.method} does not use it; leave it out")
        return None
    if ROLE not in family.offers:
        raise UserError(f"--method {recipe.method}: it needs a CLIP vision tower, which {family.title} does not have")
    if ROLE not in recipe.aux:
        raise UserError(f"--method {recipe.method}: it reads the question through a CLIP text tower: {HINT}")
    return find(recipe.aux[ROLE])
