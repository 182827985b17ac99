import numpy as np
import pytest
import torch

from exporter.select import gather_rows, marked, ranked, ranks, top_k

SHAPES = [(1, 12), (2, 3, 40), (2, 1, 2, 33)]


def wanted(scores, keep):
    """Stable descending argsort: what the documentation promises."""
    order = np.argsort(-scores.astype(np.float32), axis=-1, kind="stable")
    return np.sort(order[..., :keep], axis=-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("levels", [1, 3, 1_000_000])
def test_top_k_is_a_stable_argsort(shape, kind, levels):
    """Few levels make many ties; one level ties everything."""
    scores = (np.random.default_rng(0).integers(levels, size=shape) / levels - 0.5).astype(kind)
    for keep in (1, 5, shape[-1] - 1, shape[-1]):
        got = top_k(torch.from_numpy(scores), keep)
        assert got.dtype == torch.int64
        np.testing.assert_array_equal(got.numpy(), wanted(scores, keep))


def test_ties_go_to_the_lower_index():
    assert top_k(torch.tensor([[0.0, 7, 7, -1, 7, 7]]), 3).tolist() == [[1, 2, 4]]
    assert top_k(torch.tensor([[0.0, -0.0, 0.0]]), 2).tolist() == [[0, 1]]


def test_keeping_all_keeps_the_order_and_keeping_none_is_empty():
    scores = torch.tensor([[3.0, 1, 2]])
    assert top_k(scores, 3).tolist() == [[0, 1, 2]]
    assert top_k(scores, 0).shape == (1, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [1, 3, 1_000_000])
def test_ranked_is_best_first_and_ranks_is_its_inverse(shape, levels):
    scores = (np.random.default_rng(0).integers(levels, size=shape) / levels - 0.5).astype(np.float32)
    order = np.argsort(-scores, axis=-1, kind="stable")
    for keep in (1, 5, shape[-1]):
        np.testing.assert_array_equal(ranked(torch.from_numpy(scores), keep).numpy(), order[..., :keep])
    np.testing.assert_array_equal(ranks(torch.from_numpy(scores)).numpy(), np.argsort(order, axis=-1))


def test_marked_is_one_wherever_an_index_points():
    assert marked(torch.tensor([[0, 3, 3], [1, 1, 1]]), 4).tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]
    assert marked(torch.zeros(2, 0, dtype=torch.int64), 3).tolist() == [[0, 0, 0], [0, 0, 0]]


class Pick(torch.nn.Module):
    def forward(self, scores):
        return top_k(scores, 4)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_exporting_leaves_one_marker(kind):
    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(Pick(), (torch.zeros(2, 1, 9, dtype=kind),), dynamic_shapes=({0: batch},))
    model = torch.onnx.export(program, (), dynamo=True, optimize=False, verbose=False).model
    markers = [node for node in model.graph if node.domain == "tp.export"]
    assert [node.op_type for node in markers] == ["Select"]
    assert [node.op_type for node in model.graph if node.op_type in {"TopK", "Sort"}] == []
    [marker], [out] = markers, model.graph.outputs
    assert marker.attributes["k"].as_int() == 4
    assert marker.inputs[0].dtype.name == "FLOAT"
    assert out.dtype.name == "INT64"
    assert out.shape[1:] == (1, 4)
    assert not isinstance(out.shape[0], int)


@pytest.mark.parametrize("tail", [(), (4,), (2, 3)])
@pytest.mark.parametrize("lead", [(2,), (2, 3)])
def test_gather_rows_is_batched_over_the_leading_axes(lead, tail):
    source = np.random.default_rng(1)
    values = source.normal(size=(*lead, 7, *tail)).astype(np.float32)
    indices = source.integers(7, size=(*lead, 5))
    got = gather_rows(torch.from_numpy(values), torch.from_numpy(indices)).numpy()
    assert got.shape == (*lead, 5, *tail)
    for place in np.ndindex(*lead, 5):
        np.testing.assert_array_equal(got[place], values[(*place[:-1], indices[place])])


def test_gathering_no_rows_is_empty():
    assert gather_rows(torch.ones(2, 7, 4), torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 4)
