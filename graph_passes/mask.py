"""Attention's own causal flag in place of a mask that says the same."""

from __future__ import annotations

import onnx_ir as ir

from graph_passes.base import PassResult
from graph_passes.causal import ADDED, CAUSAL, Seen, look
from graph_passes.edit import dims, integer, is_op, tidy
from graph_passes.positions import Flat

VIEWS = ("Unsqueeze", "Expand", "Reshape", "Identity", "Cast", "Where")


def run(model: ir.Model) -> PassResult:
    """Set `is_causal` where a mask is provably `key <= query` and nothing else; drop masks that hide nothing.

    A mask stays if it also hides padding, windows or packed pictures, if it comes from outside, or if there are more
    keys than queries: runtimes align the flag differently then. Masks that stay are computed once, not in every layer.
    """
    seen: Seen = {}
    for node in model.graph:
        look(node, seen)
    rewrites, kept = 0, dict[ir.Value, str]()
    for node in model.graph:
        mask = node.inputs[3] if is_op(node, "Attention") and len(node.inputs) > 3 else None
        if mask is None:
            continue
        reason = _reason(node, mask, seen)
        if reason is None:
            node.replace_input_with(3, None)
            if not _hides_nothing(mask, seen):
                node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
            rewrites += 1
        else:
            kept.setdefault(mask, reason)
    refusals = tuple(f"mask {mask.name} stays: {reason}" for mask, reason in kept.items())
    return PassResult(tidy(model, rewrites), refusals)


def _reason(node: ir.Node, mask: ir.Value, seen: Seen) -> str | None:
    """Why the mask of one Attention stays; None if it says no more than the flag."""
    if _hides_nothing(mask, seen):
        return None
    if look(mask, seen) not in {CAUSAL, ADDED}:
        return _origin(mask, seen)
    if integer(node, "is_causal", 0) or any(value is not None for value in node.inputs[4:]):
        return f"Attention {node.outputs[0].name} has the flag, or a past, already"
    of = [(dims(value) or [None, None])[-2] for value in node.inputs[:2]] + (dims(mask) or [None])[-2:]
    if None in of or len(set(of)) != 1:
        return f"Attention {node.outputs[0].name} is not known to have as many keys as queries"
    return None


def _hides_nothing(mask: ir.Value, seen: Seen) -> bool:
    """All true, or all zeros that are added."""
    return mask.dtype is not None and look(mask, seen) == Flat(int(mask.dtype == ir.DataType.BOOL))


def _origin(mask: ir.Value, seen: Seen) -> str:
    """What makes the mask more than causal: the first node behind views of it."""
    value, node = mask, mask.producer()
    while node is not None and is_op(node, *VIEWS) and node.inputs[0] is not None:
        value, node = node.inputs[0], node.inputs[0].producer()
    if node is None:
        return f"{value.name} comes from outside the graph" if value.is_graph_input() else f"{value.name} hides more"
    others = [given.name for given in node.inputs if given is not None and look(given, seen) not in {CAUSAL, Flat(1)}]
    if is_op(node, "And") and len(others) == 1:
        return f"And {value.name} joins causality with {others[0]}"
    return f"{node.op_type} {value.name} is not known to be causal and nothing else"
