"""A graph in ONNX Runtime, with any of its values to look at."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from engines.errors import UserError

INLINE = 2**30  # bytes of weights up to which a model stays one file
Arrays = Mapping[str, np.ndarray]
DTYPES = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16, ir.DataType.INT64: np.int64}


def weight(model: ir.Model) -> int:
    """Bytes of all weights."""
    values = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in values if tensor is not None)


def feeds(model: ir.Model, batch: int) -> dict[str, np.ndarray]:
    """Random pictures, drawn once and for all."""
    random = np.random.default_rng(0)
    found = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        sizes = [size if isinstance(size, int) else batch for size in value.shape]
        dtype = DTYPES.get(value.dtype) if value.dtype is not None else None
        if dtype is None:
            raise UserError(f"input '{value.name}' is {value.dtype}: only fp32, fp16 and int64 inputs can be checked")
        found[str(value.name)] = random.standard_normal(sizes).astype(dtype)
    return found


def outputs(model: ir.Model, given: Arrays, more: Sequence[ir.Value] = ()) -> dict[str, np.ndarray]:
    """What a model gives, and `more` of its values, by name; the model is left as it was.

    Raises:
        UserError: ONNX Runtime refuses it.
    """
    own = list(model.graph.outputs)
    model.graph.outputs.extend(value for value in dict.fromkeys(more) if value not in own)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _run(_file(model, Path(folder)), given)
    finally:
        model.graph.outputs[:] = own


def _file(model: ir.Model, folder: Path) -> Path:
    path = folder / "model.onnx"
    inline = weight(model) < INLINE and not any(
        isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.initializers.values()
    )
    ir.save(model, path, external_data=None if inline else "weights.data")
    return path


def _run(path: Path, given: Arrays) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = session.run(None, dict(given))
    except Exception as error:  # onnxruntime has a dozen kinds of its own
        raise UserError(f"ONNX Runtime refuses the model: {' '.join(str(error).split())[:300]}") from error
    return dict(zip([output.name for output in session.get_outputs()], found, strict=True))
