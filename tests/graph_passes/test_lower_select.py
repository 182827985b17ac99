import numpy as np
import pytest

from graph_passes import lower_select
from tests.graph_passes.graphs import operators, outputs, parsed

ONE = """<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>
part (float[n,{width}] scores) => (int64[n,{keep}] kept) {{
    kept = tp.export.Select<k={keep}>(scores)
}}"""

TWO = """<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>
part (float[n,9] scores, float[n,9] values) => (float[n,2] y, int64[n,5] first) {
    first = tp.export.Select<k=5>(scores)
    left = GatherElements<axis=1>(values, first)
    second = tp.export.Select<k=2>(left)
    y = GatherElements<axis=1>(left, second)
}"""


def wanted(scores, keep):
    """Stable: of equal scores the lower index stays."""
    return np.sort(np.argsort(-scores, axis=-1, kind="stable")[..., :keep], axis=-1)


@pytest.mark.parametrize("levels", [1, 2, 5, 1_000_000])
@pytest.mark.parametrize(("width", "keep"), [(40, 1), (40, 13), (40, 40), (1, 1), (576, 64)])
def test_the_lowered_marker_is_a_stable_argsort(tmp_path, levels, width, keep):
    model = parsed(ONE.format(width=width, keep=keep))
    result = lower_select.run(model)
    assert (result.rewrites, result.modified) == (1, True)
    assert operators(model) == {"TopK": 2}
    assert "tp.export" not in model.opset_imports
    scores = (np.random.default_rng(0).integers(levels, size=(3, width)) / levels - 0.5).astype(np.float32)
    [kept] = outputs(model, tmp_path, scores=scores)
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, wanted(scores, keep))


def test_leading_axes_are_ranked_one_by_one(tmp_path):
    text = ONE.format(width=9, keep=4).replace("[n,", "[n,2,")
    model = parsed(text)
    lower_select.run(model)
    scores = np.random.default_rng(1).integers(3, size=(2, 2, 9)).astype(np.float32)
    np.testing.assert_array_equal(outputs(model, tmp_path, scores=scores)[0], wanted(scores, 4))


def test_every_marker_is_lowered_whether_read_or_returned(tmp_path):
    model = parsed(TWO)
    assert lower_select.run(model).rewrites == 2
    assert operators(model) == {"TopK": 4, "GatherElements": 2}
    assert [value.name for value in model.graph.outputs] == ["y", "first"]
    source = np.random.default_rng(2)
    scores, values = source.integers(4, size=(2, 3, 9)).astype(np.float32)
    y, first = outputs(model, tmp_path, scores=scores, values=values)
    np.testing.assert_array_equal(first, wanted(scores, 5))
    left = np.take_along_axis(values, first, 1)
    np.testing.assert_array_equal(y, np.take_along_axis(left, wanted(left, 2), 1))


def test_the_indices_never_pass_through_a_float():
    """From 2^24 on, fp32 could not hold them."""
    model = parsed(ONE.format(width=9, keep=4))
    lower_select.run(model)
    best, ascending = model.graph
    assert ascending.inputs[0] is best.outputs[1]
    assert ascending.inputs[0].dtype.name == "INT64"
    assert ascending.attributes["largest"].as_int() == 0
    [out] = model.graph.outputs
    assert (out.dtype.name, out.shape[1]) == ("INT64", 4)


@pytest.mark.parametrize("domain", ["tp.export", "other"])
def test_a_second_run_and_other_domains_are_left_alone(domain):
    model = parsed(TWO.replace("tp.export", domain))
    lower_select.run(model)
    before = operators(model)
    again = lower_select.run(model)
    assert (again.rewrites, again.modified, again.refusals) == (0, False, ())
    assert operators(model) == before
    assert (domain in model.opset_imports) == (domain == "other")
