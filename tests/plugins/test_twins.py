"""The NumPy twins of the kernels against plain sorting, PyTorch, the loop that graphs hold, and recorded vectors."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exporter import select
from exporter.maths import greedy
from graph_passes.lower_diverse import FORMS
from plugins import twins
from tests.exporter.methods.common import GOLDEN
from tests.plugins.scores import DTYPES, KINDS, scores, tied, uniform
from tools.golden import adapter, compare, in_pytorch, load

SHAPES = [(1, 1, 1), (2, 7, 3), (3, 144, 72), (2, 577, 64), (1, 2880, 640), (2, 50, 50)]


def sorted_plainly(given, k):
    """The k largest by rank (is NaN, value, lower index), in ascending order."""
    rows = []
    for row in given.astype(np.float32).reshape(-1, given.shape[-1]).tolist():
        ranked = sorted(range(len(row)), key=lambda i: (row[i] == row[i], -row[i] if row[i] == row[i] else 0, i))
        rows.append(sorted(ranked[:k]))
    return np.array(rows).reshape(*given.shape[:-1], k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "n", "k"), SHAPES)
def test_select_is_a_stable_sort(batch, n, k, kind, dtype):
    given = scores(n + k, kind, dtype, batch, n)
    assert twins.select(given, k).tolist() == sorted_plainly(given, k).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "n", "k"), SHAPES)
def test_select_is_what_pytorch_selects(batch, n, k, kind, dtype):
    given = scores(n * k, kind, np.float32, batch, n)
    tensor = torch.from_numpy(given).to(getattr(torch, dtype))
    with np.errstate(all="ignore"):
        given = given.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert twins.select(given, k).tolist() == select.top_k(tensor, k).tolist()


def test_token_select_moves_bits():
    given, tokens = scores(1, tied, np.float32, 2, 30), scores(2, KINDS[3], np.float32, 2, 30, 4)
    kept, indices = twins.token_select(given, tokens, 9)
    assert kept.tobytes() == np.take_along_axis(tokens, indices[..., None], 1).tobytes()


@pytest.mark.parametrize("form", twins.FORMS)
@pytest.mark.parametrize("kind", [uniform, tied])
@pytest.mark.parametrize(("batch", "n", "k"), [(1, 1, 1), (2, 7, 7), (3, 60, 20), (1, 300, 64)])
def test_diverse_select_is_what_pytorch_and_the_loop_pick(batch, n, k, kind, form):
    matrix, start = scores(n, kind, np.float32, batch, n, n), scores(k, kind, np.float32, batch, n)
    got = twins.diverse_select(matrix, start, k, form).tolist()
    assert got == greedy.diverse(torch.from_numpy(matrix), torch.from_numpy(start), k, form).tolist()
    assert got == looped(matrix, start, k, form).tolist()


@pytest.mark.parametrize(("form", "most"), [("max-min", 2e38), ("max-sum", 1.0)])
def test_the_loop_s_own_ways_beyond_its_numbers(form, most):
    """Infinite scores: a pick may come again, since 1e38 is taken off and not put in; at most 1e38 is remembered."""
    matrix = np.random.default_rng(3).choice(np.array([-np.inf, -3e38, -1, 0, most], np.float32), (9, 12, 12))
    start = scores(4, tied, np.float32, 9, 12)
    assert twins.diverse_select(matrix, start, 12, form).tolist() == looped(matrix, start, 12, form).tolist()


def looped(matrix, start, k, form):
    """The graph that a marker becomes, in ONNX Runtime."""
    model = onnx.parser.parse_model(FORMS[form].format(n=start.shape[-1], k=k))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"matrix": matrix, "start": start})[0]


@pytest.mark.parametrize("method", ["fastervlm", "divprune", "lexrank", "hiprune", "fopru", "flowcut"])
def test_whatever_recorded_vectors_select_and_pick(method, monkeypatch):
    """Each selection that a method makes on its way to what its authors' code gave is the twins' too."""
    seen = []
    ranked, searches = select.ranked, dict(greedy.SEARCHES)

    def spied(given, keep):
        seen.append((select.ascending(ranked(given, keep)), twins.select(given.float().numpy(), keep)))
        return ranked(given, keep)

    def searched(form):
        def search(matrix, start, keep):
            picks = searches[form](matrix, start, keep)
            seen.append((torch.cat(picks, 1), twins.diverse_select(matrix.numpy(), start.numpy(), keep, form)))
            return picks

        return search

    monkeypatch.setattr(select, "ranked", spied)
    for form in twins.FORMS:
        monkeypatch.setitem(greedy.SEARCHES, form, searched(form))
    for path in sorted((GOLDEN / method).glob("case*.npz")):
        for check in adapter(method).checks(load(path)):
            assert compare(in_pytorch(check), check.want)[0]
    assert seen
    assert all(np.array_equal(of_pytorch.numpy(), of_twin) for of_pytorch, of_twin in seen)
