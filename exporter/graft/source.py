"""A model file from outside, read as data: ONNX with its weights inside or in plain files beside it."""

from __future__ import annotations

import stat
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from engines.errors import UserError

OLDEST, NEWEST = 18, 23
BATCH = "batch"  # the name of the one axis whose length is open


def read(path: Path) -> ir.Model:
    """The graph; external weights stay where they are.

    Raises:
        UserError: missing, not ONNX, of an opset that is not served, of open picture size, or its weights are
            outside its folder, links, or cut short.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give an ONNX model")
    try:
        model = ir.load(path)
        if model.functions:
            InlinePass()(model)
        empty = not len(model.graph)
    except Exception as error:  # whatever a parser raises on what is not ONNX
        raise UserError(f"{path}: not an ONNX model ({' '.join(str(error).split())[:120]})") from error
    if empty:
        raise UserError(f"{path}: not an ONNX model (it has no nodes)")
    _check_opset(model, path)
    _check_inputs(model, path)
    for tensor in external(model):
        _check_weights(tensor, path)
    return model


def external(model: ir.Model) -> list[ir.ExternalTensor]:
    """The weights that lie outside the file."""
    values = (value.const_value for value in model.graph.initializers.values())
    return [tensor for tensor in values if isinstance(tensor, ir.ExternalTensor)]


def _check_opset(model: ir.Model, path: Path) -> None:
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if not OLDEST <= opset <= NEWEST:
        raise UserError(
            f"{path}: opset {opset} is not served: export it again with opset_version={max(OLDEST, min(opset, NEWEST))}"
        )


def _check_inputs(model: ir.Model, path: Path) -> None:
    for value in model.graph.inputs:
        sizes = None if value.shape is None else list(value.shape)
        if not sizes or not all(isinstance(size, int) for size in sizes[1:]):
            raise UserError(
                f"{path}: input '{value.name}' has open sizes beside the batch: export it for one picture size"
            )


def _check_weights(tensor: ir.ExternalTensor, path: Path) -> None:
    location = Path(tensor.location)
    file = path.parent / location
    if location.is_absolute() or location.name != str(location):
        raise UserError(f"{path}: weights at '{location}' are not beside the model: put them into its folder")
    if not file.exists() or not stat.S_ISREG(file.lstat().st_mode):
        raise UserError(f"{file}: weights of {path.name} must be a plain file there, no link")
    begin, length = tensor.offset or 0, tensor.nbytes if tensor.length is None else tensor.length
    if length != tensor.nbytes or begin + length > file.stat().st_size:
        raise UserError(f"{file}: too short for weight '{tensor.name}' of {path.name}: the file is damaged")
