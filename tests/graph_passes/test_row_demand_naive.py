"""Code as papers publish it, all attention maps written out, becomes as lean as code written for speed."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from exporter.select import gather_rows, top_k
from graph_passes import fold, fuse, lower_diverse, lower_select, row_demand
from graph_passes.cost import cost
from tests.graph_passes.graphs import operators
from tests.graph_passes.random_graphs import evaluate

WIDTH, HEADS, TOKENS, KEEP = 64, 4, 50, 8


class Layer(nn.Module):
    """A pre-norm layer of a CLIP tower."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def heads(self, x):
        return tuple(
            each(x).view(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2) for each in (self.q, self.k, self.v)
        )

    def rest(self, x, mixed):
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        wide = self.up(self.norm2(x))
        return x + self.down(wide * torch.sigmoid(1.702 * wide))


class Tower(nn.Module):
    """Three layers, of which the second's output is used, cut by what [CLS] attends to there."""

    def __init__(self):
        super().__init__()
        self.layers, self.project = nn.ModuleList(Layer() for _ in range(3)), nn.Linear(WIDTH, 32)


class Naive(Tower):
    """`output_attentions=True, output_hidden_states=True`, then torch.topk and torch.gather."""

    def forward(self, x):
        hidden_states, attentions = [x], []
        for layer in self.layers:
            x = hidden_states[-1]
            q, k, v = layer.heads(layer.norm1(x))
            maps = torch.softmax(q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5, -1)
            hidden_states.append(layer.rest(x, maps @ v))
            attentions.append(maps)
        scores = attentions[-2][:, :, 0, 1:].mean(1)
        index = scores.topk(KEEP, dim=-1).indices.sort(-1).values
        features = hidden_states[-2][:, 1:]
        return self.project(features.gather(1, index[..., None].expand(-1, -1, WIDTH))), index


class Averaged(Naive):
    """The maps averaged before the row is read, the rows projected before they are gathered."""

    def forward(self, x):
        for layer in self.layers[:2]:
            q, k, v = layer.heads(layer.norm1(x))
            maps = ((q * (WIDTH // HEADS) ** -0.5) @ k.transpose(2, 3)).softmax(-1)
            x = layer.rest(x, maps @ v)
        index = maps.mean(1)[:, 0, 1:].topk(KEEP, dim=-1).indices.sort(-1).values
        features = self.project(x[:, 1:])
        return features.gather(1, index[..., None].expand(-1, -1, 32)), index


class Lean(Tower):
    """Fused attention, one row of the map computed beside it, as the exporter traces it."""

    def forward(self, x):
        for layer in self.layers[:2]:
            q, k, v = layer.heads(layer.norm1(x))
            row = torch.softmax(q[:, :, :1] @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5, -1)
            x = layer.rest(x, scaled_dot_product_attention(q, k, v))
        index = top_k(row[:, :, 0, 1:].mean(1), KEEP)
        return self.project(gather_rows(x[:, 1:], index)), index


@cache
def traced(tower, opset, dynamic):
    """The module and the graph that torch makes of it."""
    torch.manual_seed(0)
    module = tower().eval()
    example = (torch.zeros(3 if dynamic else 1, TOKENS, WIDTH),)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    program = torch.onnx.export(module, example, dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False)
    return module, program.model


@cache
def lean(tower, opset, dynamic):
    """The graph after the passes, row demand before the markers are lowered."""
    model = traced(tower, opset, dynamic)[1].clone()
    for each in (fold, fuse, fold, row_demand, lower_diverse, lower_select):
        rewrites = each.run(model).rewrites
        assert each is not row_demand or rewrites > 15
    return model


def rows(model, kind):
    """Query rows of each node of a kind."""
    return sorted(node.outputs[0].shape[2] for node in model.graph if node.op_type == kind)


@pytest.mark.parametrize(
    ("tower", "opset", "dynamic"),
    [(Naive, 20, False), (Naive, 20, True), (Naive, 23, False), (Naive, 23, True), (Averaged, 23, True)],
)
def test_published_code_is_rescued(tower, opset, dynamic):
    module, source = traced(tower, opset, dynamic)
    model = lean(tower, opset, dynamic)
    assert rows(model, "Softmax") == [1, KEEP, TOKENS]  # no map of the cut layer is left
    assert operators(model)["GatherElements"] == operators(model)["Expand"] == 0
    ours = lean(Lean, 23, True)
    assert cost(model, {}).flops == cost(ours, {}).flops < 0.75 * cost(source, {}).flops
    for batch in (1, 3) if dynamic else (1,):
        x = torch.randn(batch, TOKENS, WIDTH, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            features, index = module(x)
        got, kept = evaluate(model, {"x": x.numpy()})
        np.testing.assert_array_equal(kept, index)
        np.testing.assert_allclose(got, features, rtol=1e-4, atol=1e-5)


def test_our_own_trace_keeps_fused_attention():
    model = lean(Lean, 23, True)
    assert rows(model, "Attention") == [KEEP, TOKENS]
    assert rows(model, "Softmax") == [1]
