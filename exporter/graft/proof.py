"""A graft against the model it was made from, in ONNX Runtime, on random pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from exporter.graft import masked, source
from exporter.graft.graft import Cut, Grafted, Prepared, finish, lower, put
from exporter.graft.run import Arrays, feeds, outputs
from exporter.methods.random import Random
from exporter.reducer import Shape

BATCH = 2
BOUNDS = {np.dtype(np.float32): 1e-4, np.dtype(np.float16): 2e-2}  # of the largest value
TIE = 1e-5  # scores as near as this are one


@dataclass(frozen=True)
class Finding:
    """One comparison in words."""

    what: str
    found: str
    good: bool


def prove(path: Path, prepared: Prepared, final: ir.Model, raw: Grafted, shape: Shape) -> list[Finding]:
    """Four comparisons; `raw` is the graft before any pass, `final` what will be written.

    1. With all tokens kept, the cut model gives what the file at `path` gives.
    2. Tokens and rows at every cut are those that the method chooses in PyTorch, from the same arrays.
    3. Behind the last layer the rows are those of the uncut model with the dropped tokens masked in attention.
    4. The passes changed nothing.
    """
    given = feeds(prepared.model, BATCH)
    original = outputs(source.read(path), given)
    lower(raw.model)
    seen = outputs(raw.model, given, _looked_at(raw.cuts, raw.prepared))
    findings = [_whole(prepared, raw.cuts, shape, given, original)]
    findings += [_chosen(number, cut, seen) for number, cut in enumerate(raw.cuts)]
    findings.append(_hidden(prepared, raw, shape, given, seen))
    done = outputs(final, given)
    same = [np.array_equal(done[n], seen[n]) if seen[n].dtype == np.int64 else _near(done[n], seen[n]) for n in done]
    findings.append(Finding("passes", "same outputs" if all(same) else "other outputs", all(same)))
    return findings


def _looked_at(cuts: Sequence[Cut], prepared: Prepared) -> list[ir.Value]:
    found = [prepared.tower.blocks[-1].after]
    for cut in cuts:
        found += [cut.site.stream, *cut.site.reads.values(), *cut.site.carried.values(), *cut.made.values()]
    return found


def _whole(prepared: Prepared, cuts: Sequence[Cut], shape: Shape, given: Arrays, original: Arrays) -> Finding:
    """All tokens: the original's outputs."""
    stages = [replace(cut.site.stage, keep=shape.patches, extra=0, cls=False) for cut in cuts]
    whole = put(prepared.again(), Random(), "random", stages, shape)
    finish(whole.model)
    found = outputs(whole.model, given)
    worst = max(_apart(found[name], array) for name, array in original.items())
    good = all(_near(found[name], array) for name, array in original.items())
    return Finding("all tokens kept = the model as it was", f"apart by {worst:.1e}", good)


def _chosen(number: int, cut: Cut, seen: Arrays) -> Finding:
    """The method in PyTorch on what the graph showed it."""
    site = cut.site
    values = [site.stream, *site.reads.values(), *site.carried.values()]
    arrays = [torch.from_numpy(seen[str(value.name)]) for value in values]
    with torch.no_grad():
        made = [tensor.numpy() for tensor in cut.choice(*arrays)]
    rows, other = (seen[str(cut.made[name].name)] for name in ("rows", "stream"))
    what = f"cut {number} = the method in PyTorch"
    if not np.array_equal(made[1], rows) and not _tied(cut, made[1], rows):
        return Finding(what, f"{_count(made[1] != rows)} of {rows.size} rows differ", good=False)
    if np.array_equal(made[1], rows) and not _near(made[0], other):
        return Finding(what, f"same rows, values apart by {_apart(made[0], other):.1e}", good=False)
    return Finding(what, f"{rows.shape[1]} rows equal", good=True)


def _tied(cut: Cut, one: np.ndarray, two: np.ndarray) -> bool:
    """Whether rows differ only where scores are equal for all that rounding can tell."""
    if cut.choice.scores is None:
        return False
    scores = cut.choice.scores[:, 0].numpy()
    front = cut.site.front
    for row, a, b in zip(scores, one, two, strict=True):
        apart = sorted(set(a.tolist()) ^ set(b.tolist()))
        values = row[np.array(apart, dtype=np.int64) - front]
        if len(values) and np.ptp(values) > TIE * np.abs(row).max():
            return False
    return True


def _hidden(prepared: Prepared, raw: Grafted, shape: Shape, given: Arrays, seen: Arrays) -> Finding:
    """The uncut model with masks; merged rows exist nowhere in it, so there as many rows are drawn at random."""
    what = "behind the last layer = masked, not cut"
    if any(cut.choice.merges or cut.site.stage.extra for cut in raw.cuts):
        stages = [replace(cut.site.stage, keep=cut.site.kept, extra=0, cls=False) for cut in raw.cuts]
        raw = put(prepared.again(), Random(), "random", stages, shape)
        lower(raw.model)
        seen = outputs(raw.model, given, _looked_at(raw.cuts, raw.prepared))
        what += " (random rows)"
    wanted, rows = _uncut(prepared.again(), raw, given, seen)
    stream = seen[str(raw.prepared.tower.blocks[-1].after.name)]
    kept = np.take_along_axis(wanted, rows[..., None], 1)
    return Finding(what, f"apart by {_apart(stream, kept):.1e}", _near(stream, kept))


def _uncut(again: Prepared, raw: Grafted, given: Arrays, seen: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """The last stream `[B,N,C]` of the masked model, and which of its rows `[B,S]` are left."""
    blocks, stream = again.tower.blocks, again.tower.blocks[-1].after
    length = again.tower.front + again.tower.patches
    dtype = blocks[0].attention.q.dtype
    assert dtype is not None
    names = masked.biases(again.model.graph, blocks, [cut.site.stage.layer for cut in raw.cuts], dtype)
    left, masks = None, {}
    for name, cut in zip(names, raw.cuts, strict=True):
        rows = seen[str(cut.made["rows"].name)]
        left = rows if left is None else np.take_along_axis(left, rows, 1)
        masks[name] = masked.bias(left, length, np.dtype(dtype.numpy()))
    assert left is not None
    used = {name: mask for name, mask in masks.items() if any(v.name == name for v in _read(again.model.graph))}
    again.model.graph.inputs[:] = [v for v in again.model.graph.inputs if v.name in used or v.name in given]
    return outputs(again.model, {**given, **used}, [stream])[str(stream.name)], left


def _read(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.inputs if value.uses()]


def _near(one: np.ndarray, two: np.ndarray) -> bool:
    return one.shape == two.shape and _apart(one, two) <= BOUNDS.get(two.dtype, 0.0)


def _apart(one: np.ndarray, two: np.ndarray) -> float:
    """Largest difference, of the largest value."""
    if one.shape != two.shape or not two.size:
        return 0.0 if one.shape == two.shape else float("inf")
    difference = np.abs(one.astype(np.float64) - two.astype(np.float64)).max()
    return float(difference / max(float(np.abs(two).max()), 1e-12))


def _count(different: np.ndarray) -> int:
    return int(different.sum())
