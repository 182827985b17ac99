import numpy as np
import onnx_ir as ir
import pytest

from graph_passes.legalise import explicit_rotary
from tests.graph_passes.graphs import operators
from tests.graph_passes.legalise.explicit import TYPES, listed, same_at_20


def text(kind="float", attributes="", table="b,n,4", places=False, layers=1):
    more, name = (", int64[b,n] places", ", places") if places else ("", "")
    body = "".join(f"y{i} = RotaryEmbedding {listed(attributes)} (x, cos, sin{name})\n" for i in range(layers))
    out = ", ".join(f"{kind}[b,3,n,8] y{i}" for i in range(layers))
    return f"""<ir_version: 10, opset_import: ["" : 23]>
        turn ({kind}[b,3,n,8] x, {kind}[{table}] cos, {kind}[{table}] sin{more}) => ({out}) {{ {body} }}"""


def feeds(kind, shape, **more):
    numbers = np.random.default_rng(0)
    shapes = {"x": (2, 3, 5, 8), "cos": shape, "sin": shape}
    return {name: numbers.normal(size=size).astype(TYPES[kind]) for name, size in shapes.items()} | more


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("attributes", "half"), [("", 4), ("num_heads = 3", 4), ("rotary_embedding_dim = 6", 3)])
def test_it_is_the_operator(kind, attributes, half):
    model = ir.from_onnx_text(text(kind, attributes, f"b,n,{half}"))
    same_at_20(model, explicit_rotary.run, feeds(kind, (2, 5, half)), atol=5e-3 if kind == "float16" else 1e-5)


def test_tables_by_position():
    model = ir.from_onnx_text(text(table="9,4", places=True))
    places = np.array([[0, 3, 8, 1, 1], [5, 4, 3, 2, 1]])
    same_at_20(model, explicit_rotary.run, feeds("float", (9, 4), places=places))


def test_layers_share_their_tables():
    model = ir.from_onnx_text(text(layers=3))
    same_at_20(model, explicit_rotary.run, feeds("float", (2, 5, 4)), rewrites=3)
    assert operators(model)["Unsqueeze"] == 2


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (" (x, c", " <interleaved = 1> (x, c", "it turns interleaved pairs"),
        ("float[b,3,n,8] x", "float[b,n,24] x", "heads are packed into one axis, or their width is not known"),
    ],
)
def test_refusals_name_the_node(old, new, reason):
    model = ir.from_onnx_text(text().replace(old, new))
    model.graph[0].name = "first"
    result = explicit_rotary.run(model)
    assert (result.rewrites, result.refusals) == (0, (f"RotaryEmbedding first: {reason}",))
