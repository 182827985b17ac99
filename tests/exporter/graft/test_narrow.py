"""What stands behind a cut: rewritten for fewer rows, or refused by name."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from engines.errors import UserError
from exporter.graft import sizes
from exporter.graft.narrow import narrow

HEAD = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch,5,4] x, int64[batch,3] rows) => (float[OUT] y)
<int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i5 = {5}, int64 zero = {0}, int64[1] m1 = {-1},
 int64[1] far = {9223372036854775807}, int64[2] parts = {1, 4}, int64[3] heads = {-1, 5, 4},
 int64[4] four = {-1, 5, 2, 2},
 int64[3] map = {-1, 8, 2}, float[1,5,4] late = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19},
 float[4,4] angles = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}, float[5,2] mixing = {0,1,2,3,4,5,6,7,8,9}>
{ cut = Identity(x)  BODY }"""
ROWS = np.array([[0, 1, 4], [0, 2, 3]])
X = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)


def graph(body, out):
    return ir.from_onnx_text(HEAD.replace("BODY", body).replace("OUT", out))


def run(model, x):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in (("x", x), ("rows", ROWS)) if name in names})[0]


def narrowed(body, out, *, merged=False):
    model = graph(body, out)
    sizes.settle(model)
    first = next(iter(model.graph))
    model.graph.inputs[0].shape = first.outputs[0].shape = ir.Shape(["batch", 3, 4])
    narrow(model.graph, first.outputs[0], 4, 2, None if merged else model.graph.inputs[1])
    return model


@pytest.mark.parametrize(
    ("body", "out", "pooled"),
    [
        ("y = Add(cut, late)", "batch,N,4", False),
        ("""front = Slice(cut, i0, i1, i1)  patches = Slice(cut, i1, far, i1)  turned = Mul(patches, angles)
         y = Concat <axis = 1> (front, turned)""", "batch,N,4", False),
        ("""front, patches = Split <axis = 1> (cut, parts)  turned = Mul(angles, patches)
         y = Concat <axis = 1> (front, turned)""", "batch,N,4", False),
        ("""a = Reshape(cut, four)  b = Transpose <perm = [0, 2, 1, 3]> (a)  c = Transpose <perm = [0, 2, 3, 1]> (a)
         d = MatMul(b, c)  e = Softmax(d)  f = Transpose <perm = [0, 2, 1, 3]> (b)  g = Reshape(f, heads)
         y = Relu(g)""", "batch,N,4", False),
        ("y = Gather <axis = 1> (cut, zero)", "batch,4", True),
        ("a = Slice(cut, i1, i5, i1)  b = Relu(a)  y = Gather <axis = 2> (b, zero)", "batch,N", None),
    ],
)  # fmt: skip
def test_rows_are_those_of_the_whole_graph(body, out, pooled):
    whole = run(graph(body, out), X)
    found = run(narrowed(body, out), np.take_along_axis(X, ROWS[..., None], 1))
    if pooled:
        wanted = whole
    elif pooled is None:
        wanted = np.take_along_axis(whole, ROWS[:, 1:] - 1, 1)
    else:
        wanted = np.take_along_axis(whole, ROWS[..., None], 1)
    np.testing.assert_array_equal(found, wanted)


def test_means_are_those_of_the_rows_that_are_left():
    x = np.take_along_axis(X, ROWS[..., None], 1)
    found = run(narrowed("a = Slice(cut, i1, far, i1)  y = ReduceMean <keepdims = 0> (a, i1)", "batch,4"), x)
    np.testing.assert_allclose(found, x[:, 1:].mean(1), rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("t = Transpose <perm = [0, 2, 1]> (cut)  y = MatMul(t, mixing)", "MatMul.*mixes all tokens"),
        ("y = ReduceSum(cut, i1)", "ReduceSum.*sums over all tokens"),
        ("a = Slice(cut, i1, far, i1)  y = Reshape(a, map)", "Reshape.*folds the 4 tokens"),
        ("y = Slice(cut, i2, far, i1)", "Slice.*rows 2 to 5 of 5"),
        ("y = Gather <axis = 1> (cut, m1)", "Gather.*takes rows"),
        ("a = Slice(cut, i2, i5, i1)  y = Relu(a)", "Slice"),
        ("t = Shape(cut)  n = Cast <to = 1> (t)  y = Mul(n, n)", "reads the number of tokens"),
        ("y = CumSum(cut, i1)", "CumSum.*not known"),
        ("y = Softmax <axis = 1> (cut)  z = ArgMax(y)", "ArgMax.*not known"),
    ],
)
def test_what_needs_all_tokens_is_named(body, said):
    with pytest.raises(UserError, match=said):
        narrowed(body, "N")


def test_merged_rows_have_no_place_in_a_table():
    with pytest.raises(UserError, match="merged tokens have none"):
        narrowed("y = Add(cut, late)", "batch,N,4", merged=True)
