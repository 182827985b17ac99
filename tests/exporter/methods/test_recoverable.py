"""Recoverable Compression: visual patches, recovered ones, centres and the rest."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import Seen
from exporter.methods.recoverable import Recoverable
from exporter.reducer import QKV, Grid, Shape
from exporter.registry import method
from exporter.sequence import Sequence, cut
from tests.exporter.methods.common import exported, golden_paths, in_turn, normal, play_case, taps

N = 30
SHAPE = Shape(N, Grid(5, 6), tower_layers=3, tower_last=1)


def reduced(method, keep, *arrays):
    """`[B,K,C]` and the kept patches, of hidden `[B,n,C]`, q, k `[B,H,n,d]`, projected `[B,n,P]`, text `[B,M,P]`."""
    hidden, q, k, projected, text = arrays
    heads = QKV(q, k, k)
    seen = {1: Seen({"out": hidden}), 2: Seen({"out": projected}, qkv={False: heads, True: heads})}
    more = {"batch": len(hidden), "tower_layers": 3, "tower_last": 1, "inputs": {"clip_text": text}}
    (stage,) = method.plan(SHAPE, Budget(str(keep)))
    chosen = method.select(taps(seen, patches=N, grid=SHAPE.grid, align=lambda x, norm: x, **more), stage)
    before = Sequence(hidden, 1, N, torch.arange(N).expand(len(hidden), 1, -1))
    return cut(before, stage, chosen, renumber=False).hidden[:, 1:], chosen.indices[:, 0]


def arrays(batch=2, seed=0):
    shapes = ((batch, N + 1, 8), (batch, 2, N + 1, 3), (batch, 2, N + 1, 3), (batch, N + 1, 4), (batch, 2, 4))
    return [normal(*shape, seed=seed + number) for number, shape in enumerate(shapes)]


@pytest.mark.parametrize("path", golden_paths("recoverable"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def by_hand(picture, visual, recovered, centres, neighbours):
    """One picture, step by step, with the right keys."""
    hidden, q, k, projected, text = picture
    q, k = (part.transpose(0, 1).flatten(1) for part in (q, k))
    a = ((q[0] @ k.T) / k.shape[1] ** 0.5).softmax(0)[1:].tolist()
    t = (cosine_similarity(projected[1:], text[0], dim=-1) / projected.shape[1] ** 0.5).tolist()
    x, k = hidden[1:], k[1:]
    chosen = sorted(range(N), key=lambda j: -a[j])[:visual]
    chosen += sorted(set(range(N)) - set(chosen), key=lambda j: -t[j])[:recovered]
    rest = sorted(set(range(N)) - set(chosen))
    middles = sorted(rest, key=lambda j: -a[j])[:centres]
    rows = [x[j] for j in sorted(chosen)]
    for i in middles:
        near = [float(cosine_similarity(k[i], k[j], dim=0)) + 50 * t[j] for j in range(N)]
        best = sorted(set(rest) - {i}, key=lambda j: -near[j])[:neighbours]
        rows.append(x[i] + sum(a[j] * x[j] for j in best))
    if middles:
        rows.append(sum(a[j] * x[j] for j in rest if j not in middles))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("split", "keep", "counts"), [("4/3/2", 10, (4, 3, 2)), ("0/5/3", 9, (0, 5, 3)), ("5/0/0", 5, (5, 0, 0))]
)
def test_by_hand(split, keep, counts):
    given = arrays()
    found, _ = reduced(Recoverable(split, neighbours=6), keep, *given)
    wanted = torch.stack([by_hand([array[b] for array in given], *counts, 6) for b in range(2)])
    torch.testing.assert_close(found, wanted)


def test_batch_and_graph_equal_one_at_a_time():
    def rows(*arrays):
        return reduced(Recoverable(), 12, *arrays)[0]

    given = arrays(3)
    torch.testing.assert_close(exported(rows, *given), in_turn(rows, *given))


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("keep", [1, 2, 3, 5, 6, 29, 30])
def test_every_budget_is_that_many_rows(keep, faithful):
    rows, indices = reduced(Recoverable(bit_faithful=faithful), keep, *arrays())
    assert rows.shape == (2, keep, 8)
    assert (indices.diff(dim=-1) > 0).all()


def test_published_keys_are_those_of_other_patches():
    given = arrays()
    given[3] = torch.ones_like(given[3])  # else the text outweighs all keys
    right, published = (reduced(Recoverable("8/6/2", 3, faithful), 17, *given)[0] for faithful in (False, True))
    assert torch.equal(right[:, :14], published[:, :14])
    assert not torch.allclose(right[:, 14:16], published[:, 14:16])
    assert torch.equal(right[:, 16], published[:, 16])


def test_ties_go_to_the_lower_index():
    flat = [torch.ones_like(array) for array in arrays(1)]
    _, indices = reduced(Recoverable("3/2/1"), 7, *flat)
    assert indices.flatten().tolist() == [0, 1, 2, 3, 4]


def test_only_the_first_segment_of_the_question_counts():
    given = arrays(1)
    other = [*given[:4], torch.cat([given[4][:, :1], -given[4][:, :1]], 1)]
    assert torch.equal(reduced(Recoverable(), 12, *given)[0], reduced(Recoverable(), 12, *other)[0])


def test_the_budget_is_shared_as_published_for_64():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    (stage,) = Recoverable().plan(shape, Budget("64"))
    assert (stage.layer, stage.keep, stage.extra) == (22, 56, 8)
    with pytest.raises(UserError, match="577"):
        Recoverable().plan(shape, Budget("577"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("split", "1/2", "split 1/2 is not"),
        ("split", "0/0/5", "split 0/0/5 is not"),
        ("neighbours", "0", "less than 1"),
    ],
)
def test_parameters_that_make_no_sense(name, value, says):
    with pytest.raises(UserError, match=says):
        method("recoverable", {name: value})
