"""Fold constants and static shapes, remove what no one reads; weights stay where they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes import Sequential, common
from onnxscript.optimizer import fold_constants_ir

from graph_passes.base import PassResult
from graph_passes.rules import rewrite

# They warn of initialisers that they know nothing of, and of every node that they leave alone.
TALKERS = ("onnx_ir.passes.common.initializer_deduplication", "onnxscript.optimizer._constant_folding")
ROUNDS = 8  # at most; what a rule leaves may fold again, and nearly always two rounds do


def run(model: ir.Model) -> PassResult:
    """Onnxscript's constant folder, rewrite rules and clean-up; what lies outside the file is out of its sight.

    A weight in a checkpoint's shard keeps its name and its place, and a 7B model is not read at all: for the duration,
    external initialisers are values that nothing is known of. `rewrites` is the number of nodes that went away.
    """
    before = len(model.graph)
    with _weights_hidden(model):
        _tidy(common.InlinePass())(model)  # folding costs most for each node: share and drop what can be first
        for _ in range(ROUNDS):
            folded = bool(fold_constants_ir(model, onnx_shape_inference=True))
            if not rewrite(model) and not folded:
                break
            common.RemoveUnusedNodesPass()(model)
        unused = common.RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
        _tidy(unused, common.RemoveUnusedOpsetsPass())(model)
    return PassResult(before - len(model.graph))


def _tidy(*first: ir.passes.PassBase) -> Sequential:
    """After `first`: constants as initialisers, equal ones and equal nodes once, nothing unread, names of their own."""
    return Sequential(
        *first,
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )


@contextmanager
def _weights_hidden(model: ir.Model) -> Iterator[None]:
    hidden = {
        v: v.const_value for v in model.graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)
    }
    for value in hidden:
        value.const_value = None
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        for value, tensor in hidden.items():
            value.const_value = tensor
