"""SparseVLM: words that rate pictures, counts on the authors' lines, clusters of what was nearly kept."""

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.raters import pull, raters
from exporter.maths.recycle import recycled
from exporter.methods.sparsevlm import SparseVLM
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, golden_paths, normal, play_case
from tests.exporter.methods.padded_prompts import DECODER, Prompts, alike, as_graph

TWO = Prompts((60, 52), 20, ((3, 26), (1, 25)))  # of two pictures each
LLAVA = Shape(576, Grid(24, 24), decoder_layers=32, heads=32, kv_heads=32)


def plan(keep, shape=LLAVA, **fields):
    return make_plan("sparsevlm", SparseVLM(**fields), shape, Budget(keep))


def counts(keep, shape=LLAVA, **fields):
    return [(stage.layer, stage.keep, stage.extra) for stage in plan(keep, shape, **fields)[1:]]


def eager(rows=None, hidden=None, starts=(2,), width=12, **more):
    """Taps over layer 1's attention, or over states."""
    seen = {1: Seen({"out": hidden}, rows), -1: Seen({"out": hidden})}
    batch, length = (hidden if rows is None else rows).shape[0], (hidden if rows is None else rows).shape[-2]
    return EagerTaps(starts, width, length, seen, Shape(width, Grid(1, width)), batch=batch, **more)


@pytest.mark.parametrize("path", golden_paths("sparsevlm"), ids=lambda path: path.stem)
def test_golden(path):
    assert play_case(path) == ["decoder [pytorch]", "decoder [onnx]"]


@pytest.mark.parametrize(
    ("version", "keep", "kept", "rows"),
    [
        ("1.0", "192", [300, 200, 110], [309, 204, 113]),
        ("1.0", "128", [303, 110, 36], [312, 117, 39]),
        ("1.0", "96", [238, 48, 26], [249, 55, 27]),
        ("1.0", "64", [66, 30, 17], [82, 32, 18]),
        ("2.0", "192", [300, 200, 118], None),
        ("2.0", "64", [66, 34, 20], None),
    ],
)
def test_the_authors_budgets_give_the_authors_counts(version, keep, kept, rows):
    found = counts(keep, version=version)
    assert [layer for layer, *_ in found] == [2, 6, 15]
    assert [count for _, count, _ in found] == kept
    assert [count + extra for _, count, extra in found] == (rows or kept)
    assert plan(keep, version=version)[0] == Stage("decoder", -1)


def test_other_budgets_lie_between():
    assert [k for _, k, _ in counts("160", version="2.0")] == [269, 154, 89]
    assert [k for _, k, _ in counts("32", version="2.0")] == [33, 17, 10]
    assert [k for _, k, _ in counts("384", version="2.0")] == [438, 388, 347]
    assert [k for _, k, _ in counts("1", version="2.0")] == [1]  # nothing to choose from after that


def test_counts_follow_the_number_of_tokens_and_parameters_win():
    double = Shape(1152, Grid(24, 48), decoder_layers=32)
    assert [k for _, k, _ in counts("384", double, version="2.0")] == [600, 400, 236]
    assert [k for _, k, _ in counts("100%", double, version="2.0", retain=64)] == [132, 68, 40]
    assert counts("100%", version="2.0", layers="0,4", counts="9,3") == [(0, 9, 0), (4, 3, 0)]


def test_a_full_budget_is_the_whole_model():
    assert plan("100%") == plan("576", version="2.0") == ()


@pytest.mark.parametrize(("layers", "cut"), [(28, [2, 5, 13]), (4, [0, 1, 2]), (3, [0, 1]), (2, [0])])
def test_other_depths(layers, cut):
    found = counts("64", Shape(576, Grid(24, 24), decoder_layers=layers), version="2.0")
    assert [layer for layer, *_ in found] == cut
    assert found[-1][1] == 20


def test_positions_are_the_versions():
    assert SparseVLM().positions == "renumber"
    assert SparseVLM("2.0").positions == "keep"


def test_raters_are_text_behind_the_picture_above_the_mean():
    hidden = normal(2, 25, 8)
    found = raters(eager(hidden=hidden))
    for states_, marks in zip(hidden, found, strict=True):
        shares = (states_[2:14] @ states_[14:].T).softmax(1).mean(0)
        assert marks[14:].tolist() == (shares > shares.mean()).float().tolist()
        assert not marks[:14].any()


def test_a_lone_word_rates():
    assert raters(eager(hidden=normal(1, 15, 8))).nonzero().tolist() == [[0, 14]]


def test_gravity_depends_on_the_distance_alone():
    hidden = normal(1, 20, 8)
    taps = eager(hidden=hidden, width=6, rope=DECODER.rotary(hidden, 7 + torch.arange(20)[None]))
    apart = (taps.outside[0][:, None] - torch.arange(20))[..., None]
    rate = 10000.0 ** -(torch.arange(0, DECODER.head_dim, 2) / DECODER.head_dim)
    want = 2 * (apart * rate).cos().sum(-1) / DECODER.head_dim**0.5
    torch.testing.assert_close(pull(taps, taps.outside)[0], want, atol=1e-5, rtol=1e-4)


def test_clusters_are_told_apart():
    """Two heaps and a straggler: their means, the rest of the span has no part."""
    rows = 9 + normal(1, 1, 8, 4)
    chosen = torch.tensor([[[6, 0, 3, 1, 7]]])
    rows[..., [6, 3], :], rows[..., [0, 1, 7], :] = torch.tensor([0.0, 0, 0, 1]), torch.tensor([5.0, 0, 0, 0])
    mix = recycled(rows, chosen, 2)[0, 0]
    assert sorted((mix > 0).int().tolist()) == [[0, 0, 0, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0, 0, 1]]
    torch.testing.assert_close(mix.sum(-1), torch.ones(2))


def test_each_others_nearest_are_one_peak():
    """With two neighbours both are equally dense, and nobody denser."""
    rows = torch.tensor([[[[0.0, 0], [0.9, 0], [0.9, 0.3], [0, 2.7]]]])
    mix = recycled(rows, torch.arange(4)[None, None], 2)[0, 0]
    assert (mix > 0).int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_ties_go_to_the_lower_index():
    flat = torch.full((1, 4, 18, 18), 1 / 18)
    taps = eager(flat, normal(1, 18, 8), marks={"rater": torch.ones(1, 18)})
    found = SparseVLM().select(taps, Stage("decoder", 1, keep=5, extra=1))
    assert found.indices.tolist() == [[[0, 1, 2, 3, 4]]]
    assert (found.mix[0, 0, 0] > 0).nonzero()[:, 0].tolist() == [5, 6, 7]


def test_few_heads_all_count():
    taps = eager(attention(1, 4, 18, 18), normal(1, 18, 8), marks={"rater": torch.ones(1, 18)})
    taken = SparseVLM("2.0", heads=4).scores(SparseVLM().received(taps, 1))
    assert torch.equal(taken, SparseVLM("2.0").scores(SparseVLM().received(taps, 1)))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_prompts_of_several_lengths_do_not_disturb_each_other(version):
    alike(SparseVLM(version, layers="1,3", counts="12,5", heads=2), TWO, "50%")


def test_a_prompt_without_its_pictures_is_no_obstacle():
    """Dummy spans stand behind its last token."""
    reducer, prompts = SparseVLM(layers="1", counts="4"), Prompts((50, 9), 20, ((3, 26), (9, 29)))
    found = prompts.walk(reducer, "50%")
    alone = prompts.one(0).walk(reducer, "50%")
    torch.testing.assert_close(found.sequence.hidden[0], alone.sequence.hidden[0], atol=1e-5, rtol=1e-5)
    assert found.sequence.hidden.isfinite().all()
    assert found.sequence.valid[1].sum() == 9


def test_the_graph_of_a_batch_is_the_reducer():
    as_graph(SparseVLM(layers="0,1", counts="12,5"), TWO, "50%")


@pytest.mark.parametrize(
    "params",
    [
        {"version": "3.0"},
        {"retain": "100"},
        {"retain": "64", "counts": "9,5,3"},
        {"counts": "9,5"},
        {"counts": "9,5,0"},
        {"layers": "4,4,6"},
        {"layers": "1,2,3,4"},
        {"heads": "0"},
        {"recycle": "2"},
    ],
)
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("sparsevlm", params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("layers", "has"), [("2,6,31", 32), ("", 1)])
def test_layers_that_are_not_there(layers, has):
    with pytest.raises(UserError, match="give --param layers="):
        plan("64", Shape(576, Grid(24, 24), decoder_layers=has), layers=layers)
