"""Graphs written as text, with weights in a file beside them, and what ONNX Runtime makes of them."""

from collections import Counter
from itertools import accumulate

import onnx_ir as ir
import onnxruntime

SHARD = "shard.bin"


def parsed(text, folder=None, **weights):
    """The model of an ONNX text; its inputs named in `weights` (fp32 arrays) become initialisers in a shard."""
    model = ir.from_onnx_text(text)
    ends = list(accumulate((array.nbytes for array in weights.values()), initial=16))
    for (name, array), offset in zip(weights.items(), ends, strict=False):
        [value] = [value for value in model.graph.inputs if value.name == name]
        model.graph.inputs.remove(value)
        shape = ir.Shape(array.shape)
        value.const_value = ir.ExternalTensor(
            SHARD, offset, array.nbytes, ir.DataType.FLOAT, shape=shape, name=name, base_dir=folder
        )
        model.graph.register_initializer(value)
    if weights:
        (folder / SHARD).write_bytes(bytes(16) + b"".join(array.tobytes() for array in weights.values()))
    return model


def places(model):
    """Where each initialiser in a file lies."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    outside = {name: t for name, t in tensors.items() if isinstance(t, ir.ExternalTensor)}
    return {name: (t.location, t.offset, t.length) for name, t in outside.items()}


def operators(model):
    """How often each operator stands in the graph."""
    return Counter(node.op_type for node in model.graph)


def outputs(model, folder, **inputs):
    """What ONNX Runtime computes, its own optimisations off."""
    ir.save(model, folder / "part.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(folder / "part.onnx", options).run(None, inputs)
