import time

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_passes import weight_only
from graph_passes.weight_only import Packed, linears
from tests.graph_passes.graphs import operators, outputs, parsed

INT4, INT8, FLOAT = ir.DataType.INT4, ir.DataType.INT8, ir.DataType.FLOAT
X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
HEAD = '<ir_version: 11, opset_import: ["" : 23]>'
GRAPH = """<ir_version: 11, opset_import: ["" : OPSET]>
part (float[b,t,8] x, float[6,8] w) => (float[b,t,6] y) {
    BODY
}"""
PLAIN = "turned = Transpose<perm=[1,0]>(w)\n y = MatMul(x, turned)"


def graph(folder, body=PLAIN, opset=23):
    return parsed(GRAPH.replace("OPSET", str(opset)).replace("BODY", body), folder, w=W)


def codes_of(width=8, out=6, block=4, dtype=INT4, seed=2):
    """Random codes and the numbers that they stand for, [in,out]."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-8, 8, (width, out), np.int8)
    scales = rng.uniform(0.1, 2, (width // block, out) if block else (out,)).astype(np.float32)
    wide = np.repeat(scales, block, axis=0) if block else scales
    packed = Packed(ir.tensor(codes, dtype=dtype), ir.tensor(scales), block)
    return packed, codes.astype(np.float32) * wide


@pytest.mark.parametrize(("block", "dtype"), [(4, INT4), (8, INT4), (0, INT4), (4, INT8), (0, INT8)])
def test_a_product_with_codes_is_a_product_with_their_numbers(tmp_path, block, dtype):
    model = graph(tmp_path)
    packed, numbers = codes_of(block=block, dtype=dtype)
    result = weight_only.run(model, {"w": packed})
    assert (result.rewrites, result.refusals) == (1, ())
    assert operators(model) == {"DequantizeLinear": 1, "MatMul": 1}
    assert set(model.graph.initializers) == {"w.codes", "w.scales"}
    np.testing.assert_array_equal(outputs(model, tmp_path, x=X)[0], outputs_of(numbers, tmp_path))
    assert weight_only.run(model, {"w": packed}).refusals == ("w: no 2-D weight outside the file has this name",)


def outputs_of(numbers, folder):
    """The same graph with these numbers as they are."""
    text = "part (float[b,t,8] x, float[8,6] n) => (float[b,t,6] y) { y = MatMul(x, n) }"
    model = ir.from_onnx_text(HEAD + text)
    return outputs(model, folder, x=X, n=numbers)[0]


def test_a_cast_between_weight_and_product_goes(tmp_path):
    body = "wide = Cast<to=16>(w)\n turned = Transpose<perm=[1,0]>(wide)\n small = Cast<to=16>(x)\n"
    model = graph(tmp_path, body + "z = MatMul(small, turned)\n y = Cast<to=1>(z)")
    for node in model.graph:
        if node.op_type in {"Cast", "Transpose"}:
            node.outputs[0].dtype = ir.DataType.BFLOAT16
    packed, _ = codes_of()
    assert "float type" in weight_only.run(model, {"w": packed}).refusals[0]
    half = Packed(packed.codes, ir.tensor(packed.scales.numpy().astype(ir.DataType.BFLOAT16.numpy())), packed.block)
    assert weight_only.run(model, {"w": half}).rewrites == 1
    assert operators(model) == {"DequantizeLinear": 1, "MatMul": 1, "Cast": 2}


def test_several_products_share_codes(tmp_path):
    model = graph(
        tmp_path, "turned = Transpose<perm=[1,0]>(w)\n a = MatMul(x, turned)\n b = MatMul(x, turned)\n y = Add(a, b)"
    )
    assert weight_only.run(model, {"w": codes_of()[0]}).rewrites == 1
    assert operators(model) == {"DequantizeLinear": 1, "MatMul": 2, "Add": 1}


def test_the_last_product_is_known(tmp_path):
    bodies = {
        PLAIN: True,
        "turned = Transpose<perm=[1,0]>(w)\n half = MatMul(x, turned)\n y = Cast<to=1>(half)": True,
        "turned = Transpose<perm=[1,0]>(w)\n z = MatMul(x, turned)\n y = Relu(z)": False,
    }
    for body, last in bodies.items():
        assert linears(graph(tmp_path, body))[0]["w"].last is last


REFUSED = {
    "looked up": ("z = Gather(w, rows)\n y = MatMul(x, turned)", "Gather", "as it lies"),
    "from the left": ("turned = Transpose<perm=[1,0]>(w)\n y = MatMul(turned, x)", "MatMul", "from the right"),
    "not turned": ("same = Transpose<perm=[0,1]>(w)\n y = MatMul(x, same)", "Transpose", "turns nothing"),
    "added": ("turned = Transpose<perm=[1,0]>(w)\n y = Add(x, turned)", "Add", "no product"),
    "as it lies": ("y = MatMul(x, w)", "MatMul", "as it lies"),
    "unread": ("y = Relu(x)", "", "read by nobody"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(tmp_path, what):
    body, node, reason = REFUSED[what]
    if what == "looked up":
        body = "turned = Transpose<perm=[1,0]>(w)\n rows = Shape(x)\n" + body
    model = graph(tmp_path, body)
    [refusal] = weight_only.run(model, {"w": codes_of()[0]}).refusals
    assert refusal.startswith("w: ")
    assert node in refusal
    assert reason in refusal
    assert "w" in model.graph.initializers


@pytest.mark.parametrize(
    ("opset", "block", "dtype", "least"),
    [(20, 4, INT4, 21), (20, 4, INT8, 21), (12, 0, INT8, 13)],
)
def test_too_low_an_opset_is_refused(tmp_path, opset, block, dtype, least):
    model = graph(tmp_path, opset=opset)
    [refusal] = weight_only.run(model, {"w": codes_of(block=block, dtype=dtype)[0]}).refusals
    assert f"from opset {least} on, this is {opset}" in refusal
    assert operators(model) == {"Transpose": 1, "MatMul": 1}


def test_columns_of_8_bits_are_read_at_opset_20(tmp_path):
    model = graph(tmp_path, opset=20)
    packed, numbers = codes_of(block=0, dtype=INT8)
    assert weight_only.run(model, {"w": packed}).rewrites == 1
    np.testing.assert_array_equal(outputs(model, tmp_path, x=X)[0], outputs_of(numbers, tmp_path))


def test_other_sizes_and_types_are_refused(tmp_path):
    good, _ = codes_of()
    others = (
        codes_of(width=6, out=8, block=3)[0],
        Packed(good.codes, good.scales, 2),
        Packed(ir.tensor(good.codes.numpy().astype(np.int16)), good.scales, 4),
    )
    for packed in others:
        result = weight_only.run(model := graph(tmp_path), {"w": packed})
        assert result.rewrites == 0
        assert len(result.refusals) == 1
        assert operators(model)["DequantizeLinear"] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_any_size_keeps_its_numbers(tmp_path_factory, blocks, out, block, seed):
    folder, width = tmp_path_factory.mktemp("any"), blocks * block
    text = f"part (float[b,{width}] x, float[{out},{width}] w) => (float[b,{out}] y) {{ {PLAIN} }}"
    model = parsed(HEAD + text, folder, w=np.ones((out, width), np.float32))
    packed, numbers = codes_of(width, out, block, seed=seed)
    assert weight_only.run(model, {"w": packed}).rewrites == 1
    x = np.random.default_rng(seed).standard_normal((3, width)).astype(np.float32)
    np.testing.assert_allclose(outputs(model, folder, x=x)[0], x @ numbers, rtol=1e-5, atol=1e-5)


def test_time_grows_with_the_layers(tmp_path):
    def took(layers):
        names = [f"w{n}" for n in range(layers)]
        body = "\n".join(f"t{n} = Transpose<perm=[1,0]>(w{n})\n x{n + 1} = MatMul(x{n}, t{n})" for n in range(layers))
        weights = ", ".join(f"float[8,8] {name}" for name in names)
        text = f"part (float[b,8] x0, {weights}) => (float[b,8] x{layers}) {{ {body} }}"
        model = parsed(HEAD + text, tmp_path, **dict.fromkeys(names, np.ones((8, 8), np.float32)))
        packed = dict.fromkeys(names, codes_of(out=8)[0])
        start = time.process_time()
        assert weight_only.run(model, packed).rewrites == layers
        return time.process_time() - start

    assert took(128) < 32 * 4 * max(took(4), 0.005)
