"""What the decompositions are tested with: one operator in both forms, in ONNX Runtime."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from graph_passes.legalise import opset

TYPES = {"float": np.float32, "float16": np.float16}


def listed(attributes):
    """As ONNX text wants them, which allows no empty list."""
    return f"<{attributes}>" if attributes else ""


def ran(model, feeds):
    """What ONNX Runtime computes, its own optimisations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options).run(None, feeds)


def same_at_20(model, run, feeds, rewrites=1, atol=1e-5):
    """Equal numbers before and after `run`, a legal opset-20 graph then, and nothing left for a second run."""
    before = ran(model, feeds)
    result = run(model)
    assert (result.rewrites, result.refusals) == (rewrites, ())
    assert run(model).rewrites == 0
    assert opset.run(model, 20).refusals == ()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for got, want in zip(ran(model, feeds), before, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-3 if got.dtype == np.float16 else 1e-5, atol=atol)
