import onnx
import pytest

from engines.trt import fusion, layers
from tests.engines.trt.explicit import HEADER, built, explicit, graph, ranges

MASK = {"m": ((1, 1, 16, 16), (1, 1, 64, 64), (2, 1, 256, 256))}
AXIS = "<int64[1] axis = {1}>"


def report(folder, text, *profiles):
    """What `build` tells of a toy."""
    return built(folder, text, *profiles).details["fusion"]


def alone(told):
    [profile] = told["profiles"]
    return profile


FUSED = {
    "attention": (graph("{ y = Attention(q, k, v) }"), ranges()),
    "explicit": (graph(explicit()), ranges()),
    "chosen mask": (
        graph(explicit("t = Where(m, s, c)", "t"), "bool[B,1,S,S] m, float16[1] c"),
        ranges(**MASK, c=((1,), (1,), (1,))),
    ),
    "softmax in fp32": (graph(explicit("t = Cast<to = 1>(s)", "t", "h = Cast<to = 10>(p)", "h")), ranges()),
    "bf16": (graph(explicit(), kind="bfloat16"), ranges()),
    "widest head": (graph(explicit(), width=256), ranges(width=256)),
}


@pytest.mark.parametrize(("text", "profile"), FUSED.values(), ids=FUSED)
def test_fused_attention_is_found(text, profile, tmp_path):
    told = report(tmp_path, text, profile)
    assert told["attention"] == 1
    assert alone(told)["fused"] == {"_gemm_mha_v2": 1}
    assert alone(told)["unfused"] == []
    assert alone(told)["fp32"] == []
    assert alone(told)["kernels"] - alone(told)["copies"] == 1  # the others lay out queries and keys


UNFUSED = {
    "read by a mean": (
        graph(explicit(beside="r = ReduceMean(p, axis)"), outputs=", float16[B,1,S,S] r", constants=AXIS),
        ranges(),
        "ReduceMean 'node_of_r' reads the probabilities, too",
    ),
    "handed out": (
        graph(explicit(), outputs=", float16[B,4,S,S] p"),
        ranges(),
        "the graph hands out the probabilities, 'p'",
    ),
    "changed": (
        graph(explicit(after="w = Mul(p, m)", weights="w"), "float16[B,1,S,S] m"),
        ranges(**MASK),
        "Mul 'node_of_w' changes the probabilities",
    ),
    "logits read": (
        graph(explicit(beside="r = ReduceMax(s, axis)"), outputs=", float16[B,1,S,S] r", constants=AXIS),
        ranges(),
        "ReduceMax 'node_of_r' reads the logits, too",
    ),
    "logits changed": (
        graph(explicit("t = Tanh(s)", "t")),
        ranges(),
        "Tanh 'node_of_t' changes the logits",
    ),
    "fp32": (graph(explicit(), kind="float"), ranges(), "queries and keys are fp32"),
    "wide head": (graph(explicit(), width=512), ranges(width=512), "heads are 512 wide, kernels take 256"),
    "one head": (
        graph(explicit(), heads=1),
        ranges(heads=1, batch=1),
        "a single head in a batch of one has no kernel",
    ),
}


@pytest.mark.parametrize(("text", "profile", "why"), UNFUSED.values(), ids=UNFUSED)
def test_what_keeps_attention_from_becoming_one_kernel(text, profile, why, tmp_path):
    told = report(tmp_path, text, profile)
    assert told["attention"] == 1
    assert alone(told)["fused"] == {}
    assert alone(told)["unfused"] == [{"node": "node_of_p", "why": why}]


def test_each_range_of_shapes_is_told_apart(tmp_path):
    """Many queries have another kernel than one has, and a name without a mark belongs to what stands around it."""
    text = graph("{ y = Attention(q, k, v) }").replace("[B,4,S,32] q", "[B,4,T,32] q").replace("S,32] y", "T,32] y")
    one = ((1, 4, 1, 32), (1, 4, 1, 32), (2, 4, 1, 32))
    result = built(tmp_path, text, ranges(), {**ranges(), "q": one})
    told = result.details["fusion"]
    assert [profile["fused"] for profile in told["profiles"]] == [{"_gemm_mha_v2": 1}, {"_gemv_mha_v1": 1}]
    assert result.details["fused_attention"] == {"_gemm_mha_v2": 1, "_gemv_mha_v1": 1}
    assert told["bytes"] == result.bytes
    listed = layers.load(tmp_path / "part.layers.json")
    assert [sum(layer.profile == n for layer in listed) for n in (0, 1)] == [p["layers"] for p in told["profiles"]]


SCORES = """g (float16[B,64,32] x, float16[32] w, int64[B,64] at) => (float16[B,8,32] y)
    <int64[1] k = {8}, int64[1] last = {-1}, int64[1] axes = {2}> {
    wide = Cast<to = 1>(x)
    squared = Mul(wide, wide)
    score = ReduceSum<keepdims = 0>(squared, last)
    values, picked = TopK(score, k)
    rows = Unsqueeze(picked, axes)
    kept = GatherND<batch_dims = 1>(x, rows)
    place = Cast<to = 1>(at)
    angle = Cos(place)
    table = Cast<to = 10>(angle)
    tables = GatherND<batch_dims = 1>(table, rows)
    factor = Unsqueeze(tables, axes)
    turned = Mul(kept, factor)
    odd = Cast<to = 1>(turned)
    root = Exp(odd)
    total = ReduceSum(root, axes)
    part = Div(root, total)
    y = Cast<to = 10>(part)
}"""


def test_what_is_in_fp32_and_what_for(tmp_path):
    """Scores, tables of positions and values can be told apart."""
    batch = {"x": (64, 32), "at": (64,)}
    shapes = {name: ((1, *rest), (1, *rest), (2, *rest)) for name, rest in batch.items()}
    found = alone(report(tmp_path, SCORES, {**shapes, "w": ((32,), (32,), (32,))}))["fp32"]
    purposes = {each["purpose"] for each in found}
    assert "selection" in purposes
    assert "fell" not in purposes
    [scores] = [each for each in found if "node_of_values" in each["nodes"]]
    assert scores["purpose"] == "selection"


def test_what_the_builder_puts_into_fp32_by_itself(tmp_path):
    """No layer list of today has one, so it is made up."""
    halves = {"dtype": "fp16", "shape": (1,)}
    reads, writes = layers.Tensor("x", **halves), layers.Tensor("y", "fp32", (1,))
    path, plan = tmp_path / "g.onnx", tmp_path / "g.plan"
    text = "g (float16[1] x) => (float16[1] z) { y = Relu(x) z = Neg(y) }"
    onnx.save(onnx.parser.parse_model(HEADER + text), path)
    plan.write_bytes(b"plan")
    listed = [
        layers.Layer("a", "kgen", "", (reads,), (writes,), ("node_of_y",)),
        layers.Layer("b", "kgen", "", (writes,), (layers.Tensor("z", **halves),), ()),
    ]
    told = fusion.report(listed, plan, path)
    assert alone(told)["fp32"] == [
        {"layer": "a", "nodes": ["node_of_y"], "purpose": "fell"},
        {"layer": "b", "nodes": [], "purpose": "fell"},
    ]
    assert told["bytes"] == 4


def test_an_unrolled_loop_belongs_to_the_loop(tmp_path):
    """Its steps come from no node of the graph."""
    text = """g (float16[B,16,16] m) => (int64[8] y) <int64[1] zero = {0}> {
        trips = Constant<value = int64 {8}>()
        go = Constant<value = bool {1}>()
        most = ReduceMax<keepdims = 0>(m, zero)
        start = Cast<to = 1>(most)
        last, y = Loop(trips, go, start) <body = body (int64 i, bool c, float[16,16] at)
            => (bool again, float[16,16] next, int64 pick) {
            again = Identity(c)
            one = Constant<value = int64[1] {1}>()
            sums = ReduceSum<keepdims = 0>(at, one)
            picks = ArgMax<axis = 0, keepdims = 0>(at)
            first = Constant<value = int64 {0}>()
            pick = Gather<axis = 0>(picks, first)
            row = Unsqueeze(sums, one)
            next = Sub(at, row)
        }>
    }"""
    found = alone(report(tmp_path, text, {"m": ((1, 16, 16), (1, 16, 16), (2, 16, 16))}))["fp32"]
    assert len(found) > 3
    assert {each["purpose"] for each in found} == {"selection"}


DEPENDENT = """g (float16[B,64] x, float16[B,64,32] t) => (float16[K,32] y)
    <int64[1] axis = {0}, int64[1] flat = {-1}, int64[1] from = {0}, int64[2] shape = {-1, 32}> {
    sums = ReduceSum(x, axis)
    whole = Cast<to = 7>(sums)
    most = ReduceMax<keepdims = 0>(whole)
    end = Reshape(most, flat)
    rows = Reshape(t, shape)
    y = Slice(rows, from, end, from)
}"""


def test_a_shape_that_depends_on_data_makes_the_host_wait(tmp_path):
    shapes = {"x": ((1, 64), (1, 64), (2, 64)), "t": ((1, 64, 32), (1, 64, 32), (2, 64, 32))}
    found = alone(report(tmp_path, DEPENDENT, shapes))
    [name] = found["host_copies"]
    assert "DevicetoShapeHostCopy" in name
    assert found["kernels"] < found["layers"]
