"""Zero-TPrune: PageRank on attention maps, similar patches first, unimportant ones after."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import Seen
from exporter.maths.pagerank import importance, weighted_pagerank
from exporter.methods.zero_tprune import ZeroTPrune, steps, unlike
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, exported, in_turn, normal, taps
from tests.exporter.methods.tower import pictures, tower_shape, walked

CLIP = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)


def kept(maps, keys, keep, has_cls=True, **more):
    """`maps` `[B,H,n,n]` and `keys` `[B,H,n,d]` of one layer."""
    seen = {0: Seen(attention=maps, qkv={True: QKV(keys, keys, keys)})}
    given = taps(seen, patches=maps.shape[-1] - has_cls, batch=len(maps), has_cls=has_cls, **more)
    return ZeroTPrune().select(given, Stage("tower", 0, keep=keep)).indices


def made_up(batch=2, n=26, seed=0):
    return attention(batch, 3, n, n, seed=seed), normal(batch, 3, n, 4, seed=seed + 1)


@pytest.mark.parametrize("times", [1, 8, 32])
def test_squaring_is_the_iteration_and_scores_sum_to_one(times):
    maps = attention(2, 3, 10, 10)
    alive = (torch.arange(10) != torch.tensor([[3], [7]])).float()
    found = weighted_pagerank(maps, alive, alive, times)
    for b, gone in ((0, 3), (1, 7)):
        left = [i for i in range(10) if i != gone]
        graph = maps[b][:, left][:, :, left].double()
        graph = graph / graph.sum(-1, keepdim=True)
        s = torch.full((3, 9, 1), 1 / 9, dtype=torch.float64)
        for _ in range(times):
            s = graph.transpose(1, 2) @ s
        torch.testing.assert_close(found[b][:, left].double(), s[..., 0], rtol=1e-5, atol=1e-7)
        assert found[b][:, gone].abs().max() == 0
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3))


def test_heads_outside_the_band_do_not_count_unless_all_are():
    flat, peaked = torch.full((8,), 1 / 8), torch.tensor([0.9, *[0.1 / 7] * 7])
    some = torch.tensor([2.0, 1.5, *[4.5 / 6] * 6]) / 8
    alive = torch.ones(1, 8)
    torch.testing.assert_close(importance(torch.stack([flat, peaked, some])[None], alive, 0.01, 0.7)[0], some)
    both = ((flat**2 + peaked**2) / 2).sqrt()
    torch.testing.assert_close(importance(torch.stack([flat, peaked])[None], alive, 0.01, 0.7)[0], both)


def test_what_resembles_the_important_goes_first():
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1]])
    rows = torch.eye(6)[None].clone()
    rows[0, 4] = rows[0, 1]  # unimportant, and the image of an important one
    assert unlike(rows, scores, 1).tolist() == [[1, 1, 1, 1, 0, 1]]
    rows[0, 3] = rows[0, 5]  # alike, but both unimportant
    assert unlike(rows, scores, 1).tolist() == [[1, 1, 1, 1, 0, 1]]
    assert unlike(torch.ones(1, 6, 2), torch.ones(1, 6), 2).tolist() == [[1, 1, 1, 1, 0, 0]]


def test_both_steps_by_hand():
    maps, keys = made_up(1)
    graph, start = maps[0].double(), torch.ones(26, dtype=torch.float64)
    start[0] = 26**0.5

    def rank(graph, start, times):
        s = (start / start.sum())[None, :, None].expand(3, -1, -1)
        for _ in range(times):
            s = graph.transpose(1, 2) @ s
        s = s[..., 0]
        variance = (graph.shape[1] * s).var(1, correction=0)
        heads = [h for h in range(3) if 0.01 <= variance[h] <= 0.7] or [0, 1, 2]
        return s[heads].square().mean(0).sqrt()

    quick = rank(graph, start, 1)[1:]
    order = sorted(range(25), key=lambda j: -quick[j])
    flat = torch.nn.functional.normalize(keys[0, :, 1:].transpose(0, 1).flatten(1), dim=-1)
    alike = {a: float((flat[a] @ flat[order[:13]].T).max()) for a in order[13:]}
    gone = sorted(alike, key=lambda a: -alike[a])[:8]
    left = [0, *[j + 1 for j in range(25) if j not in gone]]
    part = graph[:, left][:, :, left]
    start = torch.ones(18, dtype=torch.float64)
    start[0] = 18**0.5
    scores = rank(part / part.sum(-1, keepdim=True), start, 32)[1:]
    best = scores.argsort(descending=True)[:10]
    wanted = sorted(left[1:][int(j)] - 1 for j in best)
    assert kept(maps, keys, 10, tower_layers=5, tower_last=4).flatten().tolist() == wanted


def test_uniform_attention_keeps_by_index():
    n = 17
    flat = torch.full((1, 2, n, n), 1 / n)
    assert kept(flat, torch.ones(1, 2, n, 3), 5).flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("has_cls", [True, False])
def test_batch_graph_and_permutation(has_cls):
    maps, keys = made_up(3)

    def few(maps, keys):
        return kept(maps, keys, 9, has_cls=has_cls)

    together = exported(few, maps, keys)
    assert torch.equal(together, in_turn(few, maps, keys))
    order = torch.randperm(26 - has_cls, generator=torch.Generator().manual_seed(5))
    rows = torch.cat([torch.zeros(int(has_cls), dtype=torch.int64), order + has_cls])
    moved = few(maps[:1, :, rows][..., rows], keys[:1, :, rows])
    assert torch.equal(order[moved].sort().values, together[:1])


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 13, 24, 25])
def test_every_budget_keeps_that_many_in_order_through_a_whole_tower(keep, has_cls):
    seen, _ = walked(ZeroTPrune(), pictures(2, 25, has_cls), keep, 6, has_cls)
    assert seen.origin.shape == (2, 1, keep)
    assert seen.hidden.shape[1] == keep + has_cls
    assert (seen.origin.diff(dim=-1) > 0).all()


def test_a_whole_tower_exports():
    method = ZeroTPrune(keeps="20,14,9,6", drops="2,3,0,1", layers="0,1,2,4", start="uni")
    run = exported(
        lambda x: {"kept": (seen := walked(method, x, 6, 6)[0]).origin, "rows": seen.hidden}, pictures(2, 25)
    )
    assert run["kept"].shape == (2, 1, 6)


def test_tokens_of_several_rows_move_together():
    seen, _ = walked(ZeroTPrune(), pictures(1, 48, False), 5, 4, has_cls=False, unit=4)
    assert seen.hidden.shape[1] == 20
    assert seen.origin.shape[2] == 5


def test_the_default_plan():
    stages = ZeroTPrune().plan(CLIP, Budget("64"))
    assert [stage.layer for stage in stages] == [2, 6, 12, 18, 22]
    assert [stage.keep for stage in stages] == [371, 239, 154, 99, 64]
    assert [steps(layer, CLIP) for layer in (0, 5, 6, 17, 18, 22)] == [32, 32, 8, 8, 1, 1]
    plain = Shape(196, Grid(14, 14), tower_layers=12, tower_last=11)
    assert ZeroTPrune().places(plain) == (1, 3, 6, 9, 11)
    windowed = Shape(256, Grid(16, 16), tower_layers=32, tower_last=31, global_layers=(7, 15, 23, 31), has_cls=False)
    assert ZeroTPrune().places(windowed) == (7, 15, 23, 31)
    with pytest.raises(UserError, match=r"layers among \(7, 15, 23, 31\)"):
        ZeroTPrune(layers="3,7").plan(windowed, Budget("64"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"layers": "3,3"}, "--param layers=3,3: give ascending layers from 0 to 4"),
        ({"layers": "2,5"}, "layers from 0 to 4"),
        ({"layers": "1,2", "keeps": "9"}, "--param keeps=9: give 2 counts from 25 down to 5"),
        ({"layers": "1,2", "keeps": "4,5"}, "down to 5"),
        ({"layers": "1,2", "keeps": "9,6"}, "down to 5"),
        ({"layers": "1,2", "keeps": "20,5", "drops": "3,11"}, "--param drops=3,11: give 2 counts, at most 5,10"),
        ({"layers": "1,2", "drops": "3"}, "give 2 counts"),
    ],
)
def test_plans_that_do_not_fit(fields, says):
    with pytest.raises(UserError, match=says):
        ZeroTPrune(**fields).plan(tower_shape(25, 6), Budget("5"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("layers", "1;3", "layers 1;3 is no list of numbers"),
        ("keeps", "9,", "keeps 9, is no list"),
        ("drops", "-1", "drops -1 is no list"),
        ("start", "bos", "start bos is neither cls nor uni"),
        ("vmin", "0.8", "vmin 0.8 and vmax 0.7 are no range"),
    ],
)
def test_parameters_that_make_no_sense(name, value, says):
    with pytest.raises(UserError, match=says):
        method("zero-tprune", {name: value})
