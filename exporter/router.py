"""Trained weights of a method, from a safetensors file: data, checked by the method before anything is traced."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engines.bundle import hash_file
from engines.errors import UserError
from exporter.recipe import Recipe
from exporter.reducer import Reducer, Shape

ROUTER = "router"
LARGEST = 256 * 2**20  # bytes


def with_router(recipe: Recipe, reducer: Reducer, shape: Shape) -> tuple[Reducer, str | None]:
    """The method with its weights, and their sha256; as it is where it needs none.

    Raises:
        UserError: a file is missing, not wanted, or not what the method documents.
    """
    given = recipe.aux.get(ROUTER)
    if ROUTER not in reducer.needs:
        if given is not None:
            raise UserError(f"--aux {ROUTER}: --method {recipe.method} has no trained weights; leave it out")
        return reducer, None
    if given is None:
        raise UserError(
            f"--method {recipe.method}: it needs trained weights: "
            f"give --aux {ROUTER}=FILE.safetensors, see docs/routers.md"
        )
    path = Path(given)
    tensors, facts = _read(path)
    return reducer.trained(tensors, facts, shape), hash_file(path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"--aux {ROUTER}={path}: larger than {LARGEST} bytes, which no router is")
        with safe_open(str(path), framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            facts = dict(opened.metadata() or {})
    except OSError as error:
        raise UserError(f"--aux {ROUTER}={path}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise UserError(f"--aux {ROUTER}={path}: not a safetensors file ({error})") from None
    return {name: values.to(torch.float32) for name, values in tensors.items()}, facts
