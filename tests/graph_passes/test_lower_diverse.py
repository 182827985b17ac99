import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from engines.backends import trt_rtx
from engines.registry import BuildJob
from exporter.maths.greedy import SEARCHES, diverse
from exporter.maths.peel import peel, rounds
from graph_passes import fold, fuse, lower_diverse, lower_select
from tests.graph_passes.graphs import operators, outputs, parsed

HEAD = '<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>\n'
ONE = """part (float[b,{n},{n}] matrix, float[b,{n}] start) => (int64[b,{k}] picks) {{
    picks = tp.export.DiverseSelect<k={k}, form="{form}">(matrix, start)
}}"""
PEELED = """part (float[b,{n},{n}] matrix) => (int64[b,{k}] left) {{
    left = tp.export.Peel<k={k}, alive={alive}, drop={drop}>(matrix)
}}"""
PART = """part ({kind}[b,24,16] x) => ({kind}[b,6,16] kept, int64[b,12] picks)
<int64[1] two = {{2}}, float tiny = {{0.000001}}> {{
    wide = Cast<to=1>(x)
    length = ReduceL2<keepdims=1>(wide, two)
    safe = Max(length, tiny)
    unit = Div(wide, safe)
    other = Transpose<perm=[0,2,1]>(unit)
    matrix = MatMul(unit, other)
    start = ReduceSum<keepdims=0>(matrix, two)
    picks = tp.export.DiverseSelect<k=12, form="{form}">(matrix, start)
    scores = Cast<to=1>(picks)
    few = tp.export.Select<k=6>(scores)
    index = Unsqueeze(few, two)
    kept = GatherND<batch_dims=1>(x, index)
}}"""


def lowered(text):
    model = parsed(HEAD + text)
    result = lower_diverse.run(model)
    assert (result.rewrites, result.modified, result.refusals) == (1, True, ())
    return model


def matrices(width, levels=1_000_000, seed=0):
    """Three matrices of products of vectors, a few levels of which make ties, and starts."""
    source = np.random.default_rng(seed)
    rows = source.normal(size=(3, width, width + 2)) / np.sqrt(width)
    matrix = np.round(rows @ rows.transpose(0, 2, 1) * levels) / levels
    return matrix.astype(np.float32), (source.integers(levels, size=(3, width)) / levels).astype(np.float32)


@pytest.mark.parametrize("form", SEARCHES)
@pytest.mark.parametrize("levels", [2, 1_000_000])
@pytest.mark.parametrize(("width", "keep"), [(40, 13), (40, 1), (7, 7), (1, 1)])
def test_the_loop_is_the_search_itself(tmp_path, form, levels, width, keep):
    model = lowered(ONE.format(n=width, k=keep, form=form))
    matrix, start = matrices(width, levels)
    start = matrix.diagonal(axis1=1, axis2=2).copy() if form == "determinant" else start
    [picks] = outputs(model, tmp_path, matrix=matrix, start=start)
    assert picks.dtype == np.int64
    want = diverse(torch.from_numpy(matrix), torch.from_numpy(start), keep, form)
    np.testing.assert_array_equal(picks, want.numpy())
    assert all(len(set(row)) == keep for row in picks.tolist())


@pytest.mark.parametrize("levels", [2, 1_000_000])
@pytest.mark.parametrize(("width", "keep"), [(40, 1), (40, 11), (41, 33), (41, 2), (40, 39), (2, 1), (3, 1)])
def test_the_rounds_are_the_rounds(tmp_path, levels, width, keep):
    matrix, _ = matrices(width, levels)
    plan = rounds(width, keep, 8)
    tables = {"alive": [alive for alive, _ in plan], "drop": [drop for _, drop in plan]}
    padded = width + width % 2
    model = lowered(PEELED.format(n=padded, k=keep, **tables))
    fed = np.pad(matrix, ((0, 0), (0, padded - width), (0, padded - width)))
    [left] = outputs(model, tmp_path, matrix=fed)
    np.testing.assert_array_equal(left, peel(torch.from_numpy(matrix), keep, 8).numpy())


@pytest.mark.parametrize("form", SEARCHES)
def test_the_graph_is_one_loop_with_a_constant_trip_count(form):
    model = lowered(ONE.format(n=9, k=4, form=form))
    found = operators(model)
    assert found["Loop"] == 1
    assert set(found) <= {"Loop", "Shape", "Concat", "ConstantOfShape", "Transpose"}
    [loop] = [node for node in model.graph if node.op_type == "Loop"]
    assert loop.inputs[0].const_value.numpy() == 4
    assert loop.inputs[1] is None
    assert "tp.export" not in model.opset_imports
    body = [node.op_type for node in loop.attributes["body"].as_graph()]
    assert len(body) < 24
    assert not set(body) & {"NonZero", "If", "Loop", "ScatterElements", "Compress"}
    [picks] = model.graph.outputs
    assert (picks.name, picks.dtype.name, list(picks.shape)[1]) == ("picks", "INT64", 4)


def test_every_marker_has_names_of_its_own(tmp_path):
    text = """part (float[b,9,9] matrix, float[b,9] start) => (int64[b,4] a, int64[b,3] c, int64[b,3] left) {
        a = tp.export.DiverseSelect<k=4, form="max-min">(matrix, start)
        c = tp.export.DiverseSelect<k=3, form="max-sum">(matrix, start)
        left = tp.export.DiverseSelect<k=3, form="determinant">(matrix, start)
    }"""
    model = parsed(HEAD + text)
    assert lower_diverse.run(model).rewrites == 3
    matrix, start = matrices(9)
    got = outputs(model, tmp_path, matrix=matrix, start=start)
    for picks, (keep, form) in zip(got, [(4, "max-min"), (3, "max-sum"), (3, "determinant")], strict=True):
        want = diverse(torch.from_numpy(matrix), torch.from_numpy(start), keep, form)
        np.testing.assert_array_equal(picks, want.numpy())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


@pytest.mark.parametrize("domain", ["tp.export", "other"])
def test_a_second_run_and_other_domains_are_left_alone(domain):
    model = parsed((HEAD + ONE.format(n=9, k=4, form="max-min")).replace("tp.export", domain))
    lower_diverse.run(model)
    before = operators(model)
    assert not lower_diverse.run(model).modified
    assert operators(model) == before
    assert (domain in model.opset_imports) == (domain == "other")


@pytest.mark.parametrize("form", SEARCHES)
@pytest.mark.parametrize(("kind", "dtype"), [("float", np.float32), ("float16", np.float16)])
def test_other_passes_and_the_builder_take_the_loop(tmp_path, form, kind, dtype):
    model = parsed(HEAD + PART.format(kind=kind, form=form))
    fold.run(model)  # tells the marker how wide its matrix is
    assert lower_diverse.run(model).rewrites == 1
    assert "tp.export" in model.opset_imports  # Select is still there
    lower_select.run(model)
    x = np.random.default_rng(1).normal(size=(3, 24, 16)).astype(dtype)
    want = outputs(model, tmp_path, x=x)
    assert [fold.run(model).rewrites, fuse.run(model).rewrites, fold.run(model).rewrites] == [0, 0, 0]
    for got, wanted in zip(outputs(model, tmp_path, x=x), want, strict=True):
        np.testing.assert_array_equal(got, wanted)
    out = tmp_path / "part.plan"
    profile = {"x": ((1, 24, 16), (2, 24, 16), (4, 24, 16))}
    built = trt_rtx.build(BuildJob("part", tmp_path / "part.onnx", out, tmp_path / "log", (profile,)))
    assert built.bytes == out.stat().st_size
