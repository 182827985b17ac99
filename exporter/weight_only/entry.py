"""A part's graph over quantised weights: what `--weights` builds engines from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from engines.errors import UserError
from engines.registry import Dtype
from exporter.graph_choice import published
from exporter.shard import Tensor
from exporter.weight_only.maths import Kind, block
from exporter.weight_only.store import SCALES, Places, Tell, pending, scales_in, silent, write
from graph_passes import weight_only
from graph_passes.weight_only import Linear, Packed

STORED = {ir.DataType.FLOAT: "F32", ir.DataType.FLOAT16: "F16", ir.DataType.BFLOAT16: "BF16"}
CODES = {"int4": ir.DataType.INT4, "int8": ir.DataType.INT8}


def quantised(
    root: Path, contract: Mapping[str, Any], part: str, dtype: Dtype, kind: Kind, tell: Tell = silent
) -> Path:
    """The file of a part's graph with its matrices in 8 or 4 bits; the published one where nothing is.

    Only what reads prompts and writes answers is: `decoder`, or `prefill` and `decode`. The tower has few weights and
    much to compute, and with its numbers the choice of tokens would change; the embedding table is looked up, not
    multiplied. All parts and precisions share one file of codes, which the first call writes.

    Args:
        root: the bundle.
        contract: what its bundle.json says, or will.
        part: which.
        dtype: precision of its floats.
        kind: "int4" or "int8".
        tell: progress in bytes, while codes are written.

    Raises:
        UserError: a weight is not finite, the opset is too low, or there are no such graphs.
    """
    source = root / published(contract["parts"], part, dtype)
    if part not in readers(contract):
        return source
    places = _coded(root, contract, dtype, kind, tell)
    return _written(source, places, kind)


def _coded(root: Path, contract: Mapping[str, Any], dtype: Dtype, kind: Kind, tell: Tell) -> Places:
    """Where the codes and scales of all parts lie; writes them first if they are not there."""
    parts = contract["parts"]
    graphs = [ir.load(root / published(parts, name, dtype)) for name in readers(contract)]
    _check_opset(graphs[0], kind)
    matrices = _matrices(graphs, kind)
    if not matrices:
        raise UserError(f"--weights {kind}: the decoder has no matrix whose width is a multiple of 32; leave it out")
    return write(root / "onnx", matrices, kind, tell)


def readers(contract: Mapping[str, Any]) -> list[str]:
    """The parts that read prompts and write answers: the decoder, or what it is split into."""
    known = {"decoder", "decode", *(entry["part"] for entry in contract["prefill"])}
    return [name for name in contract["parts"] if name in known]


def _check_opset(model: ir.Model, kind: Kind) -> None:
    opset, least = model.opset_imports[""], weight_only.LEAST[CODES[kind]]
    if opset < least:
        raise UserError(
            f"--weights {kind}: numbers of 4 bits came with opset {least}, these graphs are of {opset}: "
            "take --weights int8, or export without --opset"
        )


def _matrices(graphs: Iterable[ir.Model], kind: Kind) -> dict[str, tuple[Tensor, Kind]]:
    """Where every matrix of the graphs lies that can be divided into blocks, and what it becomes; sorted by name."""
    found = dict[str, tuple[Tensor, Kind]]()
    for model in graphs:
        for name, linear in weight_only.linears(model)[0].items():
            stored, own = linear.weight.const_value, kind_of(linear, kind)
            assert isinstance(stored, ir.ExternalTensor)
            width, out = linear.shape
            if out and block(own, width):
                file, offset = str(stored.location), stored.offset or 0
                found[name] = Tensor(file, STORED[stored.dtype], (out, width), offset, stored.nbytes), own
    return dict(sorted(found.items()))


def kind_of(linear: Linear, kind: Kind) -> Kind:
    """What a matrix becomes: the head has 8 bits in any case.

    Its error goes into the logits unmixed: with 4 bits there it alone made more of it than all layers did, and 8 cost a
    7B model 2 % of the bytes.
    """
    return "int8" if linear.last else kind


def _written(source: Path, places: Places, kind: Kind) -> Path:
    """The graph over the codes, beside the one that it was made from."""
    model = ir.load(source)
    found, _ = weight_only.linears(model)
    wanted = {
        name: _packed(source.parent, name, linear, places, kind) for name, linear in found.items() if name in places
    }
    done = weight_only.run(model, wanted)
    assert not done.refusals, done.refusals
    return _saved(model, source.with_name(f"{source.stem}.{kind}.onnx"))


def _packed(folder: Path, name: str, linear: Linear, places: Places, kind: Kind) -> Packed:
    """The codes of one matrix, and its scales in the type that the graph multiplies in."""
    floats = linear.product.dtype or linear.weight.dtype
    assert floats is not None
    place, scales = places[name], scales_in(folder, places, kind, STORED[floats])[name + SCALES]
    own, (width, out) = kind_of(linear, kind), linear.shape
    codes = _outside(folder, place, CODES[own], (width, out))
    shape = (out,) if own == "int8" else scales.shape
    return Packed(codes, _outside(folder, scales, floats, shape), 0 if own == "int8" else block(own, width))


def _outside(folder: Path, place: Tensor, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        place.file, place.offset, place.nbytes, dtype, shape=ir.Shape(shape), name="", base_dir=folder
    )


def _saved(model: ir.Model, path: Path) -> Path:
    """Writes a graph in one step; one that is there already, the same, stays untouched."""
    new = pending(path)
    try:
        ir.save(model, new)
        if not (path.is_file() and path.read_bytes() == new.read_bytes()):
            new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return path
