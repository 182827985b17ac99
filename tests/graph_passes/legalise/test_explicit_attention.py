import time

import numpy as np
import onnx_ir as ir
import pytest

from graph_passes.legalise import explicit_attention
from tests.graph_passes.graphs import operators
from tests.graph_passes.legalise.explicit import TYPES, listed, same_at_20
from tests.graph_passes.random_graphs import layered

MASKS = {"bool": "bool[b,1,n,m]", "same": "{kind}[b,1,n,m]", "wide": "{kind}[n,m]"}


def text(kind="float", heads=4, grouped=4, mask=None, attributes="", layers=1, rows=("n", "m")):
    n, m = rows
    mask = f", {MASKS[mask].format(kind=kind)} mask" if mask else ""
    name = ", mask" if mask else ""
    body = "".join(f"y{i} = Attention {listed(attributes)} (q, k, v{name})\n" for i in range(layers))
    out = ", ".join(f"{kind}[b,{heads},{n},8] y{i}" for i in range(layers))
    return f"""<ir_version: 10, opset_import: ["" : 23]>
        layers ({kind}[b,{heads},{n},8] q, {kind}[b,{grouped},{m},8] k, {kind}[b,{grouped},{m},8] v{mask})
        => ({out}) {{ {body} }}"""


def feeds(kind="float", heads=4, grouped=4, mask=None, rows=(5, 7)):
    numbers = np.random.default_rng(0)
    n, m = rows
    shapes = {"q": (2, heads, n, 8), "k": (2, grouped, m, 8), "v": (2, grouped, m, 8)}
    found = {name: numbers.normal(size=shape).astype(TYPES[kind]) for name, shape in shapes.items()}
    seen = numbers.random((2, 1, n, m)) < 0.6
    seen[..., 0] = True  # every row sees a key
    if mask == "bool":
        found["mask"] = seen
    elif mask:
        added = np.where(seen, numbers.normal(size=seen.shape), np.finfo(TYPES[kind]).min).astype(TYPES[kind])
        found["mask"] = added if mask == "same" else added[0, 0]
    return found


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("grouped", [4, 2, 1])
@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("attributes", ["", "scale = 0.3, is_causal = 1"])
def test_it_is_the_operator(kind, grouped, mask, attributes):
    model = ir.from_onnx_text(text(kind, 4, grouped, mask, attributes))
    given = feeds(kind, 4, grouped, mask)
    same_at_20(model, explicit_attention.run, given, atol=3e-3 if kind == "float16" else 1e-5)
    found = operators(model)
    assert (found["MatMul"], found["Softmax"], found["Attention"]) == (2, 1, 0)
    assert found["Expand"] == (0 if grouped == 4 else 2)
    assert found["Add"] == bool(mask) + bool(attributes)


def test_causal_rows_of_constant_number_are_a_constant():
    model = ir.from_onnx_text(text(attributes="is_causal = 1", rows=(5, 5)))
    same_at_20(model, explicit_attention.run, feeds(rows=(5, 5)))
    assert operators(model)["Range"] == 0


def test_softmax_computes_in_the_precision_that_it_is_told():
    model = ir.from_onnx_text(text("float16", attributes="softmax_precision = 1"))
    same_at_20(model, explicit_attention.run, feeds("float16"), atol=3e-3)
    assert operators(model)["Cast"] == 2


def test_layers_share_one_mask():
    model = ir.from_onnx_text(text(mask="bool", layers=3))
    same_at_20(model, explicit_attention.run, feeds(mask="bool"), rewrites=3)
    assert operators(model)["Where"] == 1


def test_a_large_logit_behind_a_mask_does_not_overflow():
    model, given = ir.from_onnx_text(text("float16", mask="bool")), feeds("float16", mask="bool")
    given["q"] *= np.float16(60)
    same_at_20(model, explicit_attention.run, given, atol=0.05)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (" (q, k, v)", " <softcap = 3.0> (q, k, v)", "it has a soft cap"),
        (" (q, k, v)", " (q, k, v, , k, v)", "it has a past, or more than one output"),
        ("y0 = A", "y0, a, c = A", "it has a past, or more than one output"),
        ("[b,4,n,8] q", "[b,h,n,8] q", "the number of heads or their width is not known"),
        ("float[b,4,n,8] q", "float[b,n,32] q", "heads are packed into one axis"),
    ],
)
def test_refusals_name_the_node(old, new, reason):
    model = ir.from_onnx_text(text().replace(old, new))
    for node in model.graph:
        node.name = "first"
    result = explicit_attention.run(model)
    assert (result.rewrites, result.refusals) == (0, (f"Attention first: {reason}",))


def test_shapes_that_are_not_known_are_refused():
    model = ir.from_onnx_text(text())
    model.graph.inputs[1].shape = None
    [refusal] = explicit_attention.run(model).refusals
    assert "its shapes or its type are not known" in refusal


def test_a_mask_that_is_known_to_be_narrow_is_refused():
    model = ir.from_onnx_text(text(mask="same", rows=("n", 7)).replace("[b,1,n,m] mask", "[b,1,n,5] mask"))
    [refusal] = explicit_attention.run(model).refusals
    assert "its mask is not as wide as the keys" in refusal


def test_time_grows_as_the_layers_do():
    def seconds(layers):
        model = layered(layers)
        start = time.perf_counter()
        assert explicit_attention.run(model).rewrites == layers
        return time.perf_counter() - start

    seconds(4)
    assert seconds(128) < 32 * 8 * max(seconds(4), 1e-3)
