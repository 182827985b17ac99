import onnx
import onnx_ir as ir
import pytest

from engines.trt.attention import Attention, attention
from engines.trt.precision import judging, purposes
from tests.engines.trt.explicit import HEADER, explicit, graph


def read(text):
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEADER + text))).graph


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (graph("{ y = Attention(q, k, v) }"), ""),
        (graph("{ y = Attention(q, k, v) }", kind="float"), "queries and keys are fp32"),
        (graph("{ y = Attention(q, k, v) }", heads=1), "a single head in a batch of one has no kernel"),
        (graph("{ y = Attention(q, k, v) }", width=320), "heads are 320 wide, kernels take 256"),
        (graph("{ y = Attention(q, k, v) }", heads="H", width="D"), ""),
    ],
)
def test_attention_in_one_node(text, why):
    assert attention(read(text)) == [Attention("node_of_y", why)]


@pytest.mark.parametrize(
    ("heads", "width", "why"), [(4, 1024, ""), (2, 1024, "heads are 512 wide"), (1, 64, "a single")]
)
def test_heads_that_only_the_node_knows(heads, width, why):
    shape = f"float16[B,S,{width}]"
    body = f"y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}>(q, q, q)"
    [found] = attention(read(f"g ({shape} q) => ({shape} y) {{ {body} }}"))
    assert found.why.startswith(why)
    assert bool(found.why) == bool(why)


def test_names_are_the_parsers():
    text = graph("{ [mine] y = Attention(q, k, v) }")
    assert attention(read(text)) == [Attention("mine", "")]


def test_a_softmax_alone_is_no_attention():
    """Nor is one whose product has the probabilities on the right."""
    assert attention(read(graph(explicit(before="u = Relu(q)", logits="u")))) == []
    turned = explicit().replace("MatMul(p, v)", "MatMul(v, p)").replace("S,32] y", "S,S] y")
    assert attention(read(graph(turned))) == []


def test_the_nearest_reason_is_told():
    """Not every reader of a chain, but the first one."""
    text = graph(explicit("t = Cast<to = 1>(s)", "t", "h = Cast<to = 10>(p)", "h", "r = Relu(h) u = Relu(r)"))
    [found] = attention(read(text))
    assert found.why == "Relu 'node_of_r' reads the probabilities, too"


def test_purposes_of_fp32():
    text = """g (float16[B,S,8] x, float16[8] w, int64[B,S] at) => (float16[B,S,8] y, float[B,S,8] state, int64[B,1] i)
        <int64[1] one = {1}, int64[1] last = {-1}> {
        a = Cast<to = 1>(x)
        s = ReduceMax<keepdims = 0>(a, last)
        v, i = TopK(s, one)
        p = Cast<to = 1>(at)
        c = Cos(p)
        d = Cast<to = 10>(c)
        n = RMSNormalization(x, w)
        e = Cast<to = 1>(n)
        f = Exp(e)
        y = Cast<to = 10>(f)
        state = Abs(e)
    }"""
    found = purposes(read(text))
    assert {name.removeprefix("node_of_"): purpose for name, purpose in found.items()} == {
        **dict.fromkeys("as", "selection"),
        "v": "selection",
        **dict.fromkeys("pcd", "tables"),
        "n": "norm",
        "e": "selection",
        "state": "selection",
        **dict.fromkeys("fy", "values"),
    }


def test_maps_for_scores_alone_are_told_from_attention():
    """Two softmaxes in fp32: what comes of the first only decides, what comes of the second goes on."""
    text = """g (float16[B,S,8] x) => (float16[B,1,8] y)
        <int64[1] one = {1}, int64[1] middle = {1}, int64[1] last = {2}> {
        wide = Cast<to = 1>(x)
        turned = Transpose<perm = [0, 2, 1]>(wide)
        logits = MatMul(wide, turned)
        first = Softmax<axis = -1>(logits)
        walked = MatMul(first, wide)
        score = ReduceSum<keepdims = 0>(walked, last)
        best, at = TopK(score, one)
        second = Softmax<axis = -1>(logits)
        mixed = MatMul(second, wide)
        half = Cast<to = 10>(mixed)
        row = Unsqueeze(at, last)
        y = GatherND<batch_dims = 1>(half, row)
    }"""
    found = read(text)
    assert [each.node for each in attention(found)] == ["node_of_first", "node_of_second"]
    assert judging(found) == {f"node_of_{name}" for name in ("first", "walked", "score", "best")}
