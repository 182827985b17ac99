"""The passes to an opset together, on random graphs."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given

from graph_passes.legalise import passes
from graph_passes.pipeline import optimise
from tests.graph_passes.random_graphs import PROPERTY, equal, evaluate, graphs, layered


@PROPERTY
@given(graphs())
def test_what_is_legal_computes_the_same(drawn):
    model, feeds = drawn
    before = evaluate(model, feeds)
    reports = optimise(model, {}, passes(20))
    assert [reason for report in reports for reason in report.refusals] == []
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    equal(model, feeds, before)
    assert not any(report.modified for report in optimise(model, {}, passes(20)))


@PROPERTY
@given(graphs())
def test_int32_computes_the_same(drawn):
    model, feeds = drawn
    before = evaluate(model, feeds)
    optimise(model, {}, passes(23, "int32"))
    after = evaluate(model, feeds)
    assert all(array.dtype != np.int64 for array in after)
    for got, want in zip(after, before, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("version", [20, 23, 24])
def test_the_passes_lead_to_the_opset(version):
    model = layered(2)
    optimise(model, {}, passes(version))
    assert model.opset_imports == {"": version}


def test_costs_stay_known():
    """Every value that the decompositions make has a shape."""
    [*_, last] = optimise(layered(2), {"batch": 2}, passes(20))
    assert last.after.flops is not None
    assert last.after.bytes is not None
