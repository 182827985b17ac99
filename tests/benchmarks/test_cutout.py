"""Only what selects is cut out, and alone it computes what it computed inside."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from benchmarks.cutout import cut, selecting
from benchmarks.flops import graph_flops

HEAD = '<ir_version: 10, opset_import: ["" : 23]>'
TOWER = "h = MatMul(x, w) t = Relu(h)"
DENSE = f"{HEAD} dense (float[1,6,4] x, float[4,4] w, float[4,2] p) => (float[1,6,2] y) {{ {TOWER} y = MatMul(t, p) }}"
CONSTANT = f"""{HEAD} constant (float[1,6,4] x, float[4,4] w, float[4,2] p) => (float[1,2,2] y)
<int64[1,2,1] i = {{0, 3}}> {{ {TOWER} k = GatherND<batch_dims = 1>(t, i) y = MatMul(k, p) }}"""
PRUNED = f"""{HEAD} pruned (float[1,6,4] x, float[4,4] w, float[4,2] p) => (float[1,2,2] y, int64[1,2] kept)
<int64[1] two = {{2}}, int64[1] last = {{-1}}> {{
    {TOWER}
    s = ReduceSum<keepdims = 0>(h, last)
    v, kept = TopK(s, two)
    i = Unsqueeze(kept, last)
    k = GatherND<batch_dims = 1>(t, i)
    y = MatMul(k, p)
}}"""
LOOPED = f"""{HEAD} looped (float[1,6,4] x, float[4,4] w, float[4,2] p) => (float[1,6,2] y, float[1,6,4] sum)
<int64 n = {{3}}, bool go = {{1}}> {{
    {TOWER}
    sum = Loop(n, go, h) <body = step (int64 number, bool on, float[1,6,4] a) => (bool onward, float[1,6,4] b) {{
        onward = Identity(on)
        b = Add(a, t)
    }}>
    y = MatMul(t, p)
}}"""


def file(folder, text):
    """A model with its tower's weights named as stored ones are, inferred, as the product leaves it."""
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    path = folder / f"{model.graph.name}.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("text", "wanted"), [(PRUNED, ["ReduceSum", "TopK", "Unsqueeze"]), (LOOPED, ["Loop"])])
def test_the_selection_is_what_the_others_lack(tmp_path, text, wanted):
    plain = [ir.load(file(tmp_path, each)) for each in (DENSE, CONSTANT)]
    model = ir.load(file(tmp_path, text))
    assert [model.graph[place].op_type for place in selecting(model, plain)] == wanted


def test_a_graph_has_nothing_that_it_lacks_itself(tmp_path):
    path = file(tmp_path, PRUNED)
    assert selecting(ir.load(path), [ir.load(path)]) == []


@pytest.mark.parametrize("text", [PRUNED, LOOPED])
def test_alone_it_gives_what_it_gave_inside(tmp_path, text):
    path = file(tmp_path, text)
    plain = [ir.load(file(tmp_path, each)) for each in (DENSE, CONSTANT)]
    piece = cut(path, selecting(ir.load(path), plain), tmp_path / "selection.onnx")
    dice = np.random.default_rng(0)
    feeds = {"x": (1, 6, 4), "w": (4, 4), "p": (4, 2)}
    feeds = {name: dice.standard_normal(shape, np.float32) for name, shape in feeds.items()}
    whole, alone = (onnxruntime.InferenceSession(each) for each in (piece.whole, piece.path))
    wanted = {output.name for output in alone.get_outputs()}
    read = dict(zip(piece.inputs, whole.run(list(piece.inputs), feeds), strict=True))
    names = sorted(wanted & {output.name for output in whole.get_outputs()})
    assert names
    for mine, theirs in zip(alone.run(names, read), whole.run(names, feeds), strict=True):
        assert np.array_equal(mine, theirs)


def test_flops_are_those_of_the_sizes_given(tmp_path):
    text = f"{HEAD} free (float[batch,tokens,4] x, float[4,8] w) => (float[batch,tokens,8] y) {{ y = MatMul(x, w) }}"
    path = tmp_path / "free.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert graph_flops(path, {"batch": 2, "tokens": 5}) == 2 * 2 * 5 * 4 * 8
    assert graph_flops(path, {}) == 2 * 4 * 8


def test_shapes_that_nobody_noted_are_inferred(tmp_path):
    text = f"""{HEAD} free (float[batch,"past+tokens",4] x, float[4,8] w, float[8,2] u) => (float[a,b,c] y)
    {{ h = MatMul(x, w) y = MatMul(h, u) }}"""
    path = tmp_path / "free.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    assert graph_flops(path, {"batch": 2, "tokens": 5, "past": 1}) == 2 * 2 * 6 * (4 * 8 + 8 * 2)
