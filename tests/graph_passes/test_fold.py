import time

import numpy as np
import pytest
from hypothesis import given
from onnxscript.optimizer import optimize_ir

from graph_passes import fold
from graph_passes.rules import RULES
from tests.graph_passes.graphs import SHARD, operators, outputs, parsed, places
from tests.graph_passes.random_graphs import PROPERTY, graphs, layered, unchanged

STATIC = """<ir_version: 10, opset_import: ["" : 23]>
part (float[2,6] x) => (float[2,2,3] y)
<int64 first = {0}, int64[1] axis = {0}, int64[2] tail = {2, 3}> {
    unread = Exp(x)
    unread2 = Log(unread)
    size = Shape(x)
    batch = Gather(size, first)
    leading = Unsqueeze(batch, axis)
    shape = Concat<axis=0>(leading, tail)
    same = Identity(x)
    y = Reshape(same, shape)
}"""

DYNAMIC = STATIC.replace("float[2,6] x", "float[n,6] x").replace("float[2,2,3] y", "float[n,2,3] y")

WEIGHTS = """<ir_version: 10, opset_import: ["" : 23]>
part (float[n,4] x, float[4,4] w, float[4] bias) => (float[n,4] y)
<float[1] two = {2}, float[1] three = {3}> {
    turned = Transpose<perm=[1, 0]>(w)
    six = Mul(two, three)
    strong = Mul(bias, six)
    wide = Cast<to=1>(bias)
    product = MatMul(x, turned)
    raised = Add(product, strong)
    y = Add(raised, wide)
}"""

X = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)


@pytest.fixture
def weights():
    source = np.random.default_rng(1)
    return {name: source.normal(size=size).astype(np.float32) for name, size in (("w", (4, 4)), ("bias", 4))}


def test_static_shapes_and_unread_nodes_go_away(tmp_path):
    model = parsed(STATIC)
    [before] = outputs(model, tmp_path, x=X)
    result = fold.run(model)
    assert operators(model) == {"Reshape": 1}
    assert result.rewrites == 7
    assert result.modified
    np.testing.assert_array_equal(outputs(model, tmp_path, x=X)[0], before)


def test_what_depends_on_the_input_stays(tmp_path):
    model = parsed(DYNAMIC)
    fold.run(model)
    assert operators(model)["Reshape"] == 1
    assert operators(model)["Exp"] == operators(model)["Identity"] == 0
    for rows in (1, 2, 5):
        x = np.arange(6 * rows, dtype=np.float32).reshape(rows, 6)
        np.testing.assert_array_equal(outputs(model, tmp_path, x=x)[0], x.reshape(rows, 2, 3))


def test_weights_in_a_shard_stay_where_they_are(tmp_path, weights):
    model = parsed(WEIGHTS, tmp_path, **weights)
    x = X[:, :4]
    [before], outside = outputs(model, tmp_path, x=x), places(model)
    assert fold.run(model).rewrites == 2  # six, and a Cast to what the bias is already
    assert places(model) == outside == {"w": (SHARD, 16, 64), "bias": (SHARD, 80, 16)}
    assert operators(model) == {"Transpose": 1, "Mul": 1, "MatMul": 1, "Add": 2}
    np.testing.assert_array_equal(outputs(model, tmp_path, x=x)[0], before)


def test_matrices_are_not_read(tmp_path):
    """A model of any size is folded without its shards."""
    text = WEIGHTS.replace("4,4", "64,64").replace("n,4", "n,64").replace("float[4] bias", "float[64,64] bias")
    model = parsed(text, tmp_path, w=np.ones((64, 64), np.float32), bias=np.ones((64, 64), np.float32))
    outside = places(model)
    (tmp_path / SHARD).unlink()
    assert fold.run(model).rewrites == 2
    assert places(model) == outside


@pytest.mark.parametrize("text", [STATIC, DYNAMIC, WEIGHTS])
def test_a_second_run_finds_nothing(tmp_path, weights, text):
    model = parsed(text, tmp_path, **weights if text is WEIGHTS else {})
    fold.run(model)
    before = operators(model)
    again = fold.run(model)
    assert (again.rewrites, again.modified, again.refusals) == (0, False, ())
    assert operators(model) == before


@PROPERTY
@given(graphs())
def test_random_graphs_keep_their_numbers(case):
    unchanged(fold.run, *case)


def test_the_result_is_what_onnxscript_itself_makes():
    model = layered(1, measured=True)
    other = model.clone()
    fold.run(model)
    optimize_ir(other)
    assert operators(model) == operators(other)


def test_each_rule_is_listed_under_the_operator_that_it_ends_in():
    ends = {
        (operator, node.op_identifier()[1])
        for operator, rules in RULES.items()
        for rule in rules
        for node in rule._target_pattern.output_nodes
    }
    assert all(operator == end for operator, end in ends)


def test_time_grows_with_the_layers():
    def took(layers):
        model = layered(layers, measured=True)
        start = time.process_time()
        assert fold.run(model).rewrites > layers
        return time.process_time() - start

    assert took(16) < 8 * 4 * max(took(2), 0.01)
