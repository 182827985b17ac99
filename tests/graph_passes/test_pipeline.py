import numpy as np

from graph_passes.base import PassResult
from graph_passes.pipeline import PIPELINE, optimise
from tests.graph_passes.graphs import operators, outputs, parsed, places

PART = """<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>
part (float[n,6,8] x, float[8] w) => (float[n,2,8] y, int64[n,2] kept)
<float two = {2}, int64[1] last = {-1}, float tiny = {0.00001}, int64[1] middle = {2}, int64[3] wide = {1, 1, 8}> {
    square = Pow(x, two)
    mean = ReduceMean<keepdims=1, noop_with_empty_axes=0>(square, last)
    safe = Add(mean, tiny)
    root = Sqrt(safe)
    inverse = Reciprocal(root)
    normed = Mul(x, inverse)
    scaled = Mul(w, normed)
    unread = Exp(scaled)
    scores = ReduceSum<keepdims=0>(scaled, last)
    kept = tp.export.Select<k=2>(scores)
    again = Identity(kept)
    column = Unsqueeze(again, last)
    index = Expand(column, wide)
    y = GatherElements<axis=1>(scaled, index)
}"""


def plain(x, w):
    """The same in NumPy."""
    scaled = w * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    kept = np.sort(np.argsort(-scaled.sum(-1), axis=-1, kind="stable")[:, :2], axis=-1)
    return np.take_along_axis(scaled, kept[..., None], 1), kept


def test_all_passes_in_their_order(tmp_path):
    source = np.random.default_rng(0)
    x, w = source.normal(size=(3, 6, 8)).astype(np.float32), source.normal(size=8).astype(np.float32)
    model = parsed(PART, tmp_path, w=w)
    outside = places(model)
    reports = optimise(model)
    found = {report.name: report.rewrites for report in reports}
    assert list(found) == list(PIPELINE)
    assert found.pop("fold") == 2
    assert {name for name, rewrites in found.items() if rewrites} == {"fuse", "canonical", "lower_select"}
    want = {"RMSNormalization": 1, "ReduceSum": 1, "TopK": 2, "Unsqueeze": 1, "GatherND": 1}
    assert operators(model) == want
    assert places(model) == outside
    assert {node.domain for node in model.graph} == {""}
    y, kept = outputs(model, tmp_path, x=x)
    np.testing.assert_array_equal(kept, plain(x, w)[1])
    np.testing.assert_allclose(y, plain(x, w)[0], rtol=1e-5, atol=1e-6)


def test_a_second_run_finds_nothing(tmp_path):
    model = parsed(PART, tmp_path, w=np.ones(8, np.float32))
    optimise(model)
    before = operators(model)
    assert [report.modified for report in optimise(model)] == [False] * len(PIPELINE)
    assert operators(model) == before


def test_passes_run_one_after_the_other_on_the_same_model():
    seen = []
    passes = {name: lambda model, name=name: seen.append((name, model)) or PassResult(1, (name,)) for name in "ba"}
    model = parsed(PART)
    reports = optimise(model, {"n": 3}, passes)
    assert [(each.name, each.rewrites, each.refusals) for each in reports] == [("b", 1, ("b",)), ("a", 1, ("a",))]
    assert reports[0].after == reports[1].before
    assert seen == [("b", model), ("a", model)]
