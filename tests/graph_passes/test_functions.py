"""Calls of functions: what they hold, what they compute, and what they take together."""

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tools.golden
from exporter.maths.greedy import diverse
from graph_passes import functions, lower_diverse, lower_select
from graph_passes.legalise import opset
from graph_passes.pipeline import LOWERED, MARKED, SHARED, optimise
from tests.exporter.methods.common import golden_paths, play_case
from tests.graph_passes.graphs import operators, outputs, parsed
from tests.graph_passes.random_graphs import PROPERTY

HEAD = '<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>\n'
ROWS = """part (float[b,{n}] scores, {kind}[b,{n},4] x) => ({kind}[b,{k},4] kept, int64[b,{k}] indices)
<int64[1] last = {{-1}}> {{
    indices = tp.export.Select<k={k}>(scores)
    column = Unsqueeze(indices, last)
    kept = GatherND<batch_dims=1>(x, column)
}}"""
SEARCH = """part (float[b,{n},{n}] matrix, float[b,{n}] start) => (int64[b,{k}] picks) {{
    picks = tp.export.DiverseSelect<k={k}, form="{form}">(matrix, start)
}}"""
PEEL = """    left = tp.export.Peel<k=3, alive=[9, 6], drop=[3, 3]>(matrix)
"""
TWO = """part (float[b,{n},{n}] matrix, float[b,{n}] start) => (int64[b,3] a, int64[b,{k}] c, int64[b,{k}] d) {{
    a = tp.export.DiverseSelect<k=3, form="{first}">(matrix, start)
    c = tp.export.DiverseSelect<k={k}, form="{second}">(matrix, start)
    d = tp.export.DiverseSelect<k={k}, form="facility">(matrix, start)
}}"""


def called(text):
    """A graph whose markers are calls, its report, and the same with markers lowered."""
    model, lowered = parsed(HEAD + text), parsed(HEAD + text)
    lower_diverse.run(lowered)
    lower_select.run(lowered)
    return model, functions.run(model), lowered


def same(model, lowered, folder, **inputs):
    """What both compute, which must be equal bit for bit; the file of calls must be a valid one."""
    want = outputs(lowered, folder, **inputs)
    got = outputs(model, folder, **inputs)
    onnx.checker.check_model(folder / "part.onnx", full_check=True)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    return got


def calls(model):
    return [node.op_type for node in model.graph if node.domain == "tp.export"]


@PROPERTY
@given(data=st.data(), n=st.integers(1, 40), levels=st.sampled_from([1, 2, 5, 10_000]), seed=st.integers(0, 99))
def test_rows_and_indices_are_those_of_the_lowered_graph(tmp_path_factory, data, n, levels, seed):
    k, source = data.draw(st.integers(1, n)), np.random.default_rng(seed)
    model, result, lowered = called(ROWS.format(n=n, k=k, kind="float"))
    assert (result.rewrites, result.refusals, calls(model)) == (1, (), ["TokenSelect"])
    scores = (source.integers(levels, size=(3, n)) / levels - 0.5).astype(np.float32)
    x = source.normal(size=(3, n, 4)).astype(np.float32)
    kept, indices = same(model, lowered, tmp_path_factory.mktemp("f"), scores=scores, x=x)
    np.testing.assert_array_equal(indices, np.sort(np.argsort(-scores, axis=-1, kind="stable")[:, :k], axis=-1))
    np.testing.assert_array_equal(kept, np.take_along_axis(x, indices[..., None], 1))


@PROPERTY
@given(
    data=st.data(),
    n=st.integers(1, 20),
    form=st.sampled_from(["max-min", "max-sum"]),
    levels=st.sampled_from([1, 2, 10_000]),
    seed=st.integers(0, 99),
)
def test_picks_are_those_of_the_loop(tmp_path_factory, data, n, form, levels, seed):
    k, source = data.draw(st.integers(1, n)), np.random.default_rng(seed)
    model, result, lowered = called(SEARCH.format(n=n, k=k, form=form))
    assert (result.rewrites, calls(model)) == (1, ["DiverseSelect"])
    matrix = (source.integers(levels, size=(2, n, n)) / levels).astype(np.float32)
    start = (source.integers(levels, size=(2, n)) / levels).astype(np.float32)
    [picks] = same(model, lowered, tmp_path_factory.mktemp("f"), matrix=matrix, start=start)
    np.testing.assert_array_equal(picks, diverse(torch.from_numpy(matrix), torch.from_numpy(start), k, form))


@pytest.mark.parametrize("kind", ["float16", "float"])
def test_a_gather_of_many_axes_is_taken_along(tmp_path, kind):
    text = ROWS.format(n=9, k=4, kind=kind).replace("[b,9", "[b,2,9").replace("[b,4", "[b,2,4")
    model, result, lowered = called(
        text.replace(",4] x", ",4,3] x").replace(",4] kept", ",4,3] kept").replace("dims=1", "dims=2")
    )
    assert (result.rewrites, result.refusals) == (1, ())
    assert operators(model) == {"TokenSelect": 1}
    assert not model.graph.initializers
    [call] = model.graph
    said = {name: attribute.value for name, attribute in call.attributes.items()}
    assert said == {"k": (4,), "dynamic": 0, "plugin_namespace": "tp.export", "batch_dims": 2}
    source = np.random.default_rng(1)
    x = source.normal(size=(3, 2, 9, 4, 3)).astype("float16" if kind == "float16" else "float32")
    same(model, lowered, tmp_path, scores=source.integers(3, size=(3, 2, 9)).astype(np.float32), x=x)


LONE = """part (float[b,9] scores, {x} x) => (int64[b,4] indices, {y} y) <int64[1] last = {{-1}}, float[b,9,4] z> {{
    indices = tp.export.Select<k=4>(scores)
    column = Unsqueeze(indices, last)
    {lines}
}}"""
ROW, WHOLE = "float[b,4,4]", "float[b,9,4]"
ALONE = {  # why, what becomes of the indices, the types of x and y
    "no gather of rows reads it": ("z = Neg(x)  y = Neg(z)", WHOLE, WHOLE),
    "2 gathers read it": (
        "z = Neg(x)  one = GatherND<batch_dims=1>(x, column)  y = GatherND<batch_dims=1>(z, column)",
        WHOLE,
        ROW,
    ),
    "its indices are computed with": ("other = Abs(column)  y = GatherND<batch_dims=1>(x, other)", WHOLE, ROW),
    "rows are gathered in another way": ("y = GatherND(x, column)", "float[9,4]", ROW),
    "scores and rows have other axes": ("y = GatherND<batch_dims=1>(x, column)", "float[b,50,4]", ROW),
    "what is gathered is not known, or no float": (
        "y = GatherND<batch_dims=1>(x, column)",
        "int64[b,9,4]",
        "int64[b,4,4]",
    ),
    "the rows may depend on the indices": (
        "wide = Cast<to=1>(indices)  mean = ReduceMean(wide)  z = Add(x, mean)  y = GatherND<batch_dims=1>(z, column)",
        WHOLE,
        ROW,
    ),
}


@pytest.mark.parametrize("reason", ALONE)
def test_a_select_that_stays_alone_says_why(tmp_path, reason):
    lines, x, y = ALONE[reason]
    model, result, lowered = called(LONE.format(lines=lines, x=x, y=y))
    assert (result.rewrites, result.refusals) == (1, (f"indices stays Select: {reason}",))
    assert calls(model) == ["Select"]
    source = np.random.default_rng(2)
    kind, sizes = x.rstrip("]").split("[")
    fed = source.normal(size=[int(size.replace("b", "3")) for size in sizes.split(",")]) * 9
    scores = source.integers(3, size=(3, 9)).astype(np.float32)
    same(model, lowered, tmp_path, scores=scores, x=fed.astype(np.int64 if kind == "int64" else np.float32))


def test_one_body_serves_every_length(tmp_path):
    text = """part (float[b,9] s, float[b,2,7] t) => (int64[b,4] a, int64[b,2,3] c, int64[b,9] d) {
        a = tp.export.Select<k=4>(s)
        c = tp.export.Select<k=3>(t)
        d = tp.export.Select<k=9>(s)
    }"""
    model, result, lowered = called(text)
    assert result.rewrites == 3
    assert [key[1] for key in model.functions] == ["Select"]
    source = np.random.default_rng(3)
    fed = {"s": source.integers(4, size=(2, 9)), "t": source.integers(4, size=(2, 2, 7))}
    same(model, lowered, tmp_path, **{name: array.astype(np.float32) for name, array in fed.items()})


def test_a_second_run_finds_nothing():
    model, _, _ = called(ROWS.format(n=9, k=4, kind="float"))
    assert functions.run(model) == functions.PassResult()
    assert calls(model) == ["TokenSelect"]


def test_a_graph_without_markers_stays_as_it_is():
    model = parsed('<ir_version: 10, opset_import: ["" : 23]>\npart (float[b] x) => (float[b] y) { y = Neg(x) }')
    assert functions.twin(model) is None
    assert functions.run(model) == functions.PassResult()
    assert not model.functions


@pytest.mark.parametrize(("first", "second"), [("max-min", "max-sum"), ("max-sum", "max-min"), ("max-sum", "max-sum")])
def test_searches_of_another_form_are_loops(tmp_path, first, second):
    """One name has one body: parsers know no overloads."""
    text = HEAD + TWO.format(n=9, k=5, first=first, second=second)
    model, lowered = parsed(text), parsed(text)
    reports = {report.name: report for report in optimise(model, {}, MARKED)}
    assert reports["lower_diverse"].rewrites == 2 - (first == second)
    functions.run(model)
    optimise(lowered, {}, LOWERED)
    assert calls(model) == ["DiverseSelect"] * (1 + (first == second))
    assert operators(model)["Loop"] == 2 - (first == second)
    source = np.random.default_rng(4)
    matrix, start = source.random((2, 9, 9), np.float32), source.random((2, 9), np.float32)
    same(model, lowered, tmp_path, matrix=matrix, start=start)


def test_what_no_plugin_knows_is_no_reason_for_a_twin():
    text = SEARCH.format(n=9, k=4, form="determinant")
    assert functions.twin(parsed(HEAD + text)) is None
    assert functions.twin(parsed(HEAD + text.replace("determinant", "max-sum"))) is not None


def test_a_twin_is_another_graph_over_the_same_weights(tmp_path):
    text = ROWS.format(n=9, k=4, kind="float").replace("float[b,9,4] x", "float[3,9,4] x").replace("[b", "[3")
    x = np.random.default_rng(5).normal(size=(3, 9, 4)).astype(np.float32)
    model = parsed(HEAD + text, tmp_path, x=x)
    before = ir.to_proto(model).SerializeToString()
    twin = functions.twin(model)
    assert twin.graph.initializers["x"].const_value is model.graph.initializers["x"].const_value
    functions.run(twin)
    assert ir.to_proto(model).SerializeToString() == before
    lower_select.run(model)
    same(twin, model, tmp_path, scores=np.random.default_rng(6).random((3, 9), np.float32))


@pytest.mark.parametrize("version", [20, 24])
@pytest.mark.parametrize("text", [ROWS.format(n=9, k=4, kind="float"), SEARCH.format(n=9, k=4, form="max-min")])
def test_functions_are_of_the_graph_s_opset(tmp_path, version, text):
    model, lowered = parsed(HEAD + text), parsed(HEAD + text)
    assert opset.run(model, version).rewrites == 1
    functions.run(model)
    [function] = model.functions.values()
    assert function.opset_imports == {"": version}
    lower_diverse.run(lowered)
    lower_select.run(lowered)
    source = np.random.default_rng(7)
    shapes = {"scores": (2, 9), "x": (2, 9, 4), "matrix": (2, 9, 9), "start": (2, 9)}
    fed = {value.name: source.random(shapes[value.name], np.float32) for value in model.graph.inputs}
    same(model, lowered, tmp_path, **fed)


def test_every_attribute_is_declared_and_every_layer_has_a_name_of_its_own():
    model, _, _ = called(ROWS.format(n=9, k=4, kind="float"))
    search, _, _ = called(SEARCH.format(n=9, k=4, form="max-sum"))
    names = []
    for each in (model, search):
        [function] = each.functions.values()
        [call] = [node for node in each.graph if node.domain]
        assert set(function.attributes) == set(call.attributes)
        names += [node.name for node in ir.traversal.RecursiveGraphIterator(function.graph)]
        assert not function.graph.initializers
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(TokenSelect|DiverseSelect)/\w+", name) for name in names)


@pytest.mark.parametrize("path", [*golden_paths("fastervlm"), *golden_paths("divprune")], ids=str)
def test_golden_vectors_through_the_functions(monkeypatch, path):
    """What is recorded of the papers' code comes out of the bodies, too."""
    seen = []

    def with_functions(model):
        optimise(model, {}, {**SHARED, **MARKED})
        functions.run(model)
        seen.extend(calls(model))

    monkeypatch.setattr(tools.golden, "optimise", with_functions)
    play_case(path)
    assert set(seen) & {"Select", "TokenSelect", "DiverseSelect"}


def test_time_grows_with_the_graph(monkeypatch):
    """Whether rows depend on indices is looked up behind the marker, not in the whole graph."""
    visits = []

    def tower(layers):
        lines = [f"x{i + 1} = Neg(x{i})" for i in range(layers)]
        text = ROWS.format(n=9, k=4, kind="float").replace("x) =>", "x0) =>")
        text = text.replace("    indices", "\n".join(lines) + "\n    indices").replace(
            "(x, column)", f"(x{layers}, column)"
        )
        return parsed(HEAD + text.replace("> {", f", float[b,9,4] x{layers}> {{"))

    for layers in (4, 128):
        model = tower(layers)
        producer = ir.Value.producer
        count = [0]

        def counted(value, producer=producer, count=count):
            count[0] += 1
            return producer(value)

        with monkeypatch.context() as patched:
            patched.setattr(ir.Value, "producer", counted)
            functions.run(model)
        visits.append(count[0])
        assert calls(model) == ["TokenSelect"]
    assert visits[1] < visits[0] * 40
