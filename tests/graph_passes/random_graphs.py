"""Random transformer-like graphs for property tests, and towers of any depth for scaling tests."""

import numpy as np
import onnx_ir as ir
import onnxruntime
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from onnx_ir.passes.common import ShapeInferencePass

PROPERTY = settings(deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
ELEMENTWISE = ("Gelu", "Tanh", "Relu", "Neg", "Identity")
KINDS = ("linear", "residual", "norm", "rms", "softmax", "heads")


class Sketch:
    """A graph in the making over rows `[batch, tokens, width]`; every weight is drawn from one seed."""

    def __init__(self, seed=0, tokens=6, width=8, heads=2, batch="batch"):
        self.tape, self.numbers = ir.tape.Tape(), np.random.default_rng(seed)
        self.tokens, self.width, self.heads, self.batch = tokens, width, heads, batch
        self.initializers, self.outputs = [], []
        self.x = ir.Value(name="x", shape=ir.Shape([batch, tokens, width]), type=ir.TensorType(ir.DataType.FLOAT))

    def op(self, kind, *inputs, **attributes):
        """One node with one output."""
        return self.tape.op(kind, list(inputs), attributes)

    def constant(self, data, dtype=np.int64):
        """An initialiser of the graph."""
        name = f"constant_{len(self.initializers)}"
        value = ir.val(name, const_value=ir.tensor(np.asarray(data, dtype), name=name))
        self.initializers.append(value)
        return value

    def weight(self, *shape):
        """Random numbers that keep the scale of what they multiply."""
        return self.constant(self.numbers.normal(size=shape) / np.sqrt(shape[0]), np.float32)

    def shape_of(self, x, *tail):
        """The first axis of `x`, measured, before constant sizes: as exporters write a dynamic shape."""
        first = self.op("Gather", self.op("Shape", x), self.constant(0), axis=0)
        return self.op("Concat", self.op("Unsqueeze", first, self.constant([0])), self.constant(tail), axis=0)

    def reshaped(self, x, *tail, measured):
        """`x` as `[B,*tail]`, the batch axis measured or inferred."""
        out = self.op("Reshape", x, self.shape_of(x, *tail) if measured else self.constant([-1, *tail]))
        out.shape, out.dtype = ir.Shape([self.batch, *tail]), ir.DataType.FLOAT
        return out

    def norm(self, x, kind="LayerNormalization"):
        """LayerNormalization or RMSNormalization over the features."""
        weights = [self.weight(self.width)] * (1 if kind == "RMSNormalization" else 2)
        return self.op(kind, x, *weights, axis=-1)

    def linear(self, x, wide=None, out=None):
        """MatMul and bias."""
        wide, out = wide or self.width, out or self.width
        return self.op("Add", self.op("MatMul", x, self.weight(wide, out)), self.weight(out))

    def headed(self, x, rows, *, measured):
        """`[B,rows,C]` as `[B,heads,rows,C/heads]`."""
        split = self.reshaped(x, rows, self.heads, self.width // self.heads, measured=measured)
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def merged(self, x, rows, *, measured):
        """`[B,heads,rows,C/heads]` as `[B,rows,C]`."""
        return self.reshaped(self.op("Transpose", x, perm=[0, 2, 1, 3]), rows, self.width, measured=measured)

    def attention(self, x, rows, *, fused=True, measured=False):
        """Self-attention over `rows`: the operator, or MatMul, Softmax, MatMul."""
        q, k, v = (self.headed(self.linear(x), rows, measured=measured) for _ in range(3))
        if fused:
            mixed = self.op("Attention", q, k, v)
        else:
            mixed = self.op("MatMul", self.op("Softmax", self.logits(q, k), axis=-1), v)
        return self.linear(self.merged(mixed, rows, measured=measured))

    def logits(self, q, k):
        """Scaled products of queries and keys."""
        scale = self.constant((self.width // self.heads) ** -0.5, np.float32)
        return self.op("Mul", self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2])), scale)

    def cls_scores(self, x, *, sliced=True):
        """What row 0 attends to, mean of heads: `[B,tokens]`."""
        if sliced:
            row = self.op("Slice", x, *(self.constant([n]) for n in (0, 1, 1)))
        else:
            row = self.op("Unsqueeze", self.op("Gather", x, self.constant(0), axis=1), self.constant([1]))
        q = self.headed(self.linear(row), 1, measured=False)
        k = self.headed(self.linear(x), self.tokens, measured=False)
        seen = self.op("Softmax", self.logits(q, k), axis=-1)
        return self.op("Squeeze", self.op("ReduceMean", seen, self.constant([1]), keepdims=0), self.constant([1]))

    def top_k(self, scores, keep):
        """`[B,keep]` indices in ascending order."""
        both = [ir.Value(), ir.Value()]
        self.tape.op_multi_out("TopK", [scores, self.constant([keep])], outputs=both, attributes={"axis": -1})
        order = [ir.Value(), ir.Value()]
        down = {"axis": -1, "largest": 0}
        self.tape.op_multi_out("TopK", [both[1], self.constant([keep])], outputs=order, attributes=down)
        return order[0]

    def gather(self, x, index, keep, form="elements"):
        """Rows `index` `[B,keep]` of `x` `[B,n,C]`."""
        column = self.op("Unsqueeze", index, self.constant([-1]))
        if form == "nd":
            return self.op("GatherND", x, column, batch_dims=1)
        measured = form == "measured"
        wide = self.shape_of(index, keep, self.width) if measured else self.constant([1, 1, self.width])
        spread = self.op("Expand", column, wide)
        spread.shape, spread.dtype = ir.Shape([self.batch, keep, self.width]), ir.DataType.INT64
        return self.op("GatherElements", x, spread, axis=1)

    def layer(self, x, *, fused=True, measured=False):
        """One pre-norm transformer layer."""
        x = self.op("Add", x, self.attention(self.norm(x), self.tokens, fused=fused, measured=measured))
        hidden = self.op("Gelu", self.linear(self.norm(x), out=2 * self.width))
        return self.op("Add", x, self.linear(hidden, 2 * self.width))

    def model(self):
        """The finished graph, shapes inferred; values get the names `v0`, `v1` and so on."""
        for number, node in enumerate(self.tape.nodes):
            node.name = f"n{number}"
            for rank, value in enumerate(node.outputs):
                value.name = f"v{number}" + "_" * rank
        graph = ir.Graph(
            [self.x],
            self.outputs,
            nodes=self.tape.nodes,
            initializers=self.initializers,
            name="random",
            opset_imports={"": 23},
        )
        model = ShapeInferencePass(data_prop=True)(ir.Model(graph, ir_version=10)).model
        for value in model.graph.outputs:
            assert value.shape is not None
            value.shape = ir.Shape([self.batch, *value.shape[1:]])
        return model


def layered(layers, *, tokens=17, keep=4, measured=False, batch="batch"):
    """A tower of `layers` layers whose last one is cut to the `keep` rows that row 0 attends to most.

    `measured`: shapes are computed from Shape nodes in every layer, as exporters write them.
    """
    sketch = Sketch(tokens=tokens, batch=batch)
    x = sketch.x
    for _ in range(layers):
        x = sketch.layer(x, measured=measured)
    index = sketch.top_k(sketch.cls_scores(x), keep)
    sketch.outputs += [sketch.gather(x, index, keep), index]
    return sketch.model()


@st.composite
def graphs(draw):
    """`(model, feeds)`: a random tower, a selection, gathers in several forms, and what reads them; opset 23, fp32."""
    numbers = draw(st.integers(1, 3))
    sketch = Sketch(
        seed=draw(st.integers(0, 99)), tokens=draw(st.integers(4, 9)), batch=draw(st.sampled_from(["batch", numbers]))
    )
    rows = [sketch.x]
    for _ in range(draw(st.integers(1, 4))):
        rows.append(_step(draw, sketch, draw(st.sampled_from(rows[-3:])), sketch.tokens))
    keep = draw(st.integers(1, sketch.tokens - 1))
    index = _selection(draw, sketch, rows, keep)
    kept = [_gathered(draw, sketch, value, index, keep) for value in draw(st.lists(st.sampled_from(rows), min_size=1))]
    if draw(st.booleans()):  # a second cut: an index of an index
        fewer = draw(st.integers(1, keep))
        second = sketch.top_k(_sums(sketch, kept[-1]), fewer)
        kept.append(sketch.gather(kept[-1], second, fewer, draw(st.sampled_from(["elements", "nd", "measured"]))))
        keep = fewer
        sketch.outputs.append(
            sketch.op("GatherElements", index, second, axis=1) if index.const_value is None else second
        )
    after = _step(draw, sketch, kept[-1], keep)
    sketch.outputs += [after, *draw(st.lists(st.sampled_from([*kept, *rows[1:]]), max_size=3, unique_by=id))]
    feeds = {"x": sketch.numbers.normal(size=(numbers, sketch.tokens, sketch.width)).astype(np.float32)}
    return sketch.model(), feeds


def _step(draw, sketch, x, rows):
    """One operator, or a few, that keep `[B,rows,C]`."""
    kind = draw(st.sampled_from(["attention", *KINDS, *ELEMENTWISE, "attention"]))
    if kind in ELEMENTWISE:
        return sketch.op(kind, x)
    if kind == "attention":
        flags = {"fused": draw(st.integers(0, 2)) < 2, "measured": draw(st.booleans())}
        return sketch.op("Add", x, sketch.attention(sketch.norm(x), rows, **flags))
    if kind == "heads":  # into heads and back
        split = sketch.headed(x, rows, measured=draw(st.booleans()))
        return sketch.merged(split, rows, measured=draw(st.booleans()))
    return {
        "linear": lambda: sketch.linear(x),
        "residual": lambda: sketch.op("Add", x, sketch.op("Tanh", sketch.linear(x))),
        "norm": lambda: sketch.norm(x),
        "rms": lambda: sketch.norm(x, "RMSNormalization"),
        "softmax": lambda: sketch.op("Softmax", x, axis=-1),
    }[kind]()


def _sums(sketch, x):
    return sketch.op("ReduceSum", x, sketch.constant([-1]), keepdims=0)


def _selection(draw, sketch, rows, keep):
    """`[B,keep]` indices by scores, or a constant list `[keep]`."""
    kind = draw(st.sampled_from(["slice", "gather", "sum", "constant"]))
    if kind == "constant":
        chosen = sketch.numbers.choice(sketch.tokens, keep, replace=False)
        return sketch.constant(np.sort(chosen))
    last = rows[-1]
    scores = _sums(sketch, last) if kind == "sum" else sketch.cls_scores(last, sliced=kind == "slice")
    return sketch.top_k(scores, keep)


def _gathered(draw, sketch, x, index, keep):
    """`[B,keep,C]` rows of `x`."""
    if index.const_value is not None:
        if draw(st.booleans()):
            return sketch.op("Gather", x, index, axis=1)
        first = draw(st.integers(0, sketch.tokens - keep))
        bounds = (first, first + keep, 1)
        return sketch.op("Slice", x, *(sketch.constant([bound]) for bound in bounds))
    return sketch.gather(x, index, keep, draw(st.sampled_from(["elements", "nd", "measured"])))


def evaluate(model, feeds):
    """What ONNX Runtime computes, its own optimisations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options).run(None, dict(feeds))


def equal(model, feeds, before):
    """Whether `model` still computes `before`, up to the rounding of another row count."""
    for got, want in zip(evaluate(model, feeds), before, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def unchanged(run, model, feeds):
    """Run a pass: the numbers are what they were, and a second run finds nothing. Returns its result."""
    before = evaluate(model, feeds)
    result = run(model)
    equal(model, feeds, before)
    assert run(model).rewrites == 0
    return result
