"""VisionZip: dominant rows with [CLS], contextual rows by their keys."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import Seen
from exporter.methods.visionzip import VisionZip
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from exporter.sequence import Sequence, cut
from tests.exporter.methods.common import attention, exported, golden_paths, in_turn, normal, play_case, taps

PATCHES = 25


def rows_of(keep, has_cls=True, **fields):
    """`run(attention [B,H,n,n] or its first rows, keys [B,H,n,d], hidden [B,n,C])`, the rows that come out."""
    reducer = VisionZip(**fields)
    (stage,) = reducer.plan(Shape(PATCHES, Grid(5, 5), has_cls=has_cls), Budget(str(keep)))

    def run(maps, keys, hidden):
        seen = {0: Seen(attention=maps, qkv={False: QKV(keys, keys, keys)})}
        chosen = reducer.select(taps(seen, patches=PATCHES, batch=len(maps), has_cls=has_cls), stage)
        places = torch.arange(PATCHES).expand(len(hidden), 1, -1)
        return cut(Sequence(hidden, int(has_cls), PATCHES, places), stage, chosen, renumber=True).hidden

    return run


def arrays(batch=2, length=PATCHES + 1, seed=0):
    return attention(batch, 2, length, length, seed=seed), normal(batch, 2, length, 4), normal(batch, length, 6)


@pytest.mark.parametrize("path", golden_paths("visionzip"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 2


def by_hand(scores, metric, hidden, dominant, contextual):
    """The published procedure for one view: patches' scores, metric and hidden states."""
    best = sorted(torch.sort(scores, descending=True, stable=True).indices[:dominant].tolist())
    rest = [j for j in range(len(scores)) if j not in best]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    joined = {target: [] for target in targets}
    metric = metric / metric.norm(dim=-1, keepdim=True)
    for j in set(rest) - set(targets):
        joined[targets[int((metric[targets] @ metric[j]).argmax())]].append(j)
    merged = [hidden[t] + (hidden[js].mean(0) if js else 0) for t, js in joined.items()]
    return torch.cat([hidden[best], torch.stack(merged)])


@pytest.mark.parametrize(("dominant", "contextual"), [(1, 1), (1, 3), (4, 2), (9, 7), (14, 11), (20, 5), (24, 1)])
def test_it_is_the_published_procedure(dominant, contextual):
    maps, keys, hidden = arrays()
    got = rows_of(dominant + contextual, dominant=dominant)(maps, keys, hidden)
    for view in range(2):
        assert torch.equal(got[view, 0], hidden[view, 0])
        scores, metric = maps[view, :, 0, 1:].sum(0), keys[view].mean(0)[1:]
        wanted = by_hand(scores, metric, hidden[view, 1:], dominant - 1, contextual)
        torch.testing.assert_close(got[view, 1:], wanted)


def test_without_cls_all_dominant_rows_are_patches():
    maps, keys, hidden = arrays(length=PATCHES)
    got = rows_of(9, has_cls=False, contextual=3)(maps, keys, hidden)
    for view in range(2):
        wanted = by_hand(maps[view].sum((0, 1)), keys[view].mean(0), hidden[view], 6, 3)
        torch.testing.assert_close(got[view], wanted)


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 13, 24, 25])
def test_every_budget_hands_on_that_many_rows(keep):
    for has_cls in (True, False):
        rows = rows_of(keep, has_cls)(*arrays(length=PATCHES + has_cls))
        assert rows.shape == (2, keep, 6)
        assert rows.isfinite().all()


def test_the_graph_does_the_same_with_ties():
    maps, keys, hidden = torch.full((1, 2, 26, 26), 1 / 26), torch.ones(1, 2, 26, 4), normal(1, 26, 6)
    rows = exported(rows_of(7, contextual=3), maps, keys, hidden)
    torch.testing.assert_close(rows[0, :4], hidden[0, :4])
    taken = [3, 10, 17]  # of the 22 others, every seventh; all the rest joins the first
    rest = [j for j in range(3, 25) if j not in taken]
    torch.testing.assert_close(rows[0, 4], hidden[0, 4] + hidden[0, 1:][rest].mean(0))
    torch.testing.assert_close(rows[0, 5:], hidden[0, 1:][taken[1:]])


def test_batch_equals_one_at_a_time():
    run = rows_of(10)
    torch.testing.assert_close(run(*arrays(3)), in_turn(run, *arrays(3)))


def test_the_budget_is_divided_as_the_authors_do():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)
    for keep, contextual in ((64, 10), (128, 20), (192, 30), (1, 0)):
        stage = Stage("tower", 22, keep=keep - contextual - 1, extra=contextual, cls=True)
        assert VisionZip().plan(shape, Budget(str(keep))) == (stage,)
        assert stage.width == keep
    (stage,) = VisionZip(dominant=191, contextual=30).plan(shape, Budget("221"))
    assert (stage.keep, stage.extra) == (190, 30)
    (stage,) = VisionZip(dominant=54).plan(shape, Budget("64"))
    assert (stage.keep, stage.extra) == (53, 10)


@pytest.mark.parametrize("fields", [{"dominant": 65}, {"contextual": 64}, {"dominant": 54, "contextual": 9}])
def test_parameters_that_do_not_add_up_are_refused(fields):
    with pytest.raises(UserError, match="--keep 64: 64 tokens are not dominant="):
        VisionZip(**fields).plan(Shape(576, Grid(24, 24)), Budget("64"))


@pytest.mark.parametrize(("name", "value"), [("dominant", "0"), ("contextual", "-1")])
def test_wrong_parameters_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name} {value} is less than"):
        method("visionzip", {name: value})
