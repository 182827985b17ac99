"""A traced part in the form that the recipe asks for: its opset, and the type of its indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from engines.errors import UserError
from exporter.parts.base import Port
from exporter.recipe import Recipe
from graph_passes.legalise import TRACED, passes
from graph_passes.pipeline import Report, optimise

CONSECUTIVE = "; each is one more than the one before"


def legal(model: ir.Model, recipe: Recipe, axes: Mapping[str, int], inputs: Sequence[Port]) -> list[Report]:
    """Bring `model` into that form, in place.

    At opset 24 rows of static caches are written with TensorScatter: the slots `inputs` that they go to must be
    consecutive, which `legal_ports` say.

    Raises:
        UserError: something of the graph does not exist there.
    """
    if (recipe.opset, recipe.indices) == (TRACED, "int64"):
        return []
    reports = optimise(
        model, axes, passes(recipe.opset, recipe.indices, [port.name for port in inputs if _is_slot(port)])
    )
    if refusals := [reason for report in reports for reason in report.refusals]:
        raise UserError(f"--opset {recipe.opset}: part '{model.graph.name}' cannot be written in it: {refusals[0]}")
    return reports


def legal_ports(ports: Sequence[Port], recipe: Recipe) -> tuple[Port, ...]:
    """What a reader of the contract must know of inputs or outputs in that form."""
    narrow = [replace(port, dtype=recipe.indices) if port.dtype == "int64" else port for port in ports]
    tied = recipe.opset > TRACED
    return tuple(replace(p, meaning=p.meaning + CONSECUTIVE) if tied and _is_slot(p) else p for p in narrow)


def _is_slot(port: Port) -> bool:
    return port.name.partition(".")[0] == "slots"
