from dataclasses import dataclass, field, replace

import pytest

from engines.errors import UserError
from exporter.budget import Budget
from exporter.methods.fastervlm import FasterVLM
from exporter.methods.none import Dense
from exporter.plan import largest_top_k, make_plan, tokens_after
from exporter.reducer import Grid, Reducer, Shape, Stage

SHAPE = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32, has_cls=True)


@dataclass(frozen=True)
class Given(Reducer):
    stages: tuple[Stage, ...] = ()
    seen: list = field(default_factory=list)

    def plan(self, shape, budget):
        self.seen.append((shape, budget))
        return self.stages


def plan(*stages):
    return make_plan("toy", Given(stages), SHAPE, Budget("64"))


def test_shipped_methods():
    assert make_plan("fastervlm", FasterVLM(), SHAPE, Budget("11%")) == (Stage("tower", 22, keep=63),)
    assert make_plan("none", Dense(), SHAPE, Budget("100%")) == ()


def test_the_reducer_gets_the_geometry_and_the_budget():
    reducer = Given((Stage("tower", 3, keep=2),))
    assert make_plan("toy", reducer, SHAPE, Budget("64")) == reducer.stages
    assert reducer.seen == [(SHAPE, Budget("64"))]


@pytest.mark.parametrize(
    "stages",
    [
        (Stage("tower", -1, keep=576), Stage("tower", 22, keep=576)),
        (Stage("tower", 5), Stage("tower", 6, keep=100, extra=20), Stage("projected", keep=120)),
        (Stage("decoder", -1, keep=576), Stage("decoder", 2, keep=10, extra=4), Stage("decoder", 30, keep=14)),
        (Stage("tower", 22, keep=64), Stage("decoder", 1), Stage("decoder", 2, keep=64), Stage("decoder", 3, keep=0)),
    ],
)
def test_plans_up_to_the_limits_are_accepted(stages):
    assert plan(*stages) == stages


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([Stage("tower", 23, keep=1)], "no tower layer 23 to act after; this model allows -1 to 22"),
        ([Stage("tower", -2, keep=1)], "no tower layer -2"),
        ([Stage("projected", 0, keep=1)], "allows -1 to -1"),
        ([Stage("decoder", 31, keep=1)], "allows -1 to 30"),
        ([Stage("decoder", 3, "mid", keep=1)], "'mid' a decoder layer is not supported"),
        ([Stage("projected", -1, "around", keep=1)], "'around' a projected layer"),
        ([Stage("decoder", 32, "around", keep=1)], "allows -1 to 31"),
        ([Stage("decoder", 3, "kv", keep=0)], "a cache of 0 slots after decoder layer 3"),
        ([Stage("tower", 3, keep=577)], "cannot keep 577 of 576 tokens after tower layer 3"),
        ([Stage("tower", 3, keep=-1)], "cannot keep -1 of 576"),
        ([Stage("tower", 3, keep=9, extra=2), Stage("tower", 4, keep=12)], "cannot keep 12 of 11"),
        ([Stage("tower", 3, keep=9), Stage("tower", 4), Stage("projected", keep=10)], "cannot keep 10 of 9"),
        ([Stage("tower", 3, keep=9), Stage("projected", keep=8), Stage("decoder", 0, keep=9)], "cannot keep 9 of 8"),
        ([Stage("tower", 3, keep=9), Stage("decoder", 0, keep=10)], "cannot keep 10 of 9"),
    ],
)
def test_stages_that_the_model_does_not_have_are_refused(stages, says):
    with pytest.raises(UserError, match=says) as caught:
        plan(*stages)
    assert str(caught.value).startswith("--method toy: ")


def test_a_cls_method_needs_a_tower_with_cls():
    with pytest.raises(UserError, match=r"--method toy: .* no \[CLS\] token"):
        make_plan("toy", Needy(), replace(SHAPE, has_cls=False), Budget("64"))


def test_a_video_method_needs_a_video():
    with pytest.raises(UserError, match="among the frames of a video"):
        make_plan("toy", Filming(), SHAPE, Budget("64"))
    filmed = Filming((Stage("projected", keep=1152),))
    assert make_plan("toy", filmed, replace(SHAPE, views=2, video=True), Budget("64")) == filmed.stages


def test_nothing_is_cut_before_frames_are_pooled():
    with pytest.raises(UserError, match="not possible where frames are pooled"):
        make_plan("toy", Given((Stage("tower", 3, keep=5),)), replace(SHAPE, pooled=True), Budget("64"))


class Needy(Given):
    needs = frozenset({"cls"})


class Filming(Given):
    needs = frozenset({"video"})


@pytest.mark.parametrize(("shape", "says"), [(SHAPE, "frames of a video"), (SHAPE.flat(0), "reads text only")])
def test_what_the_model_does_not_have_is_refused_before_planning(shape, says):
    reducer = Filming() if shape.tokens else Given()
    with pytest.raises(UserError, match=says):
        make_plan("toy", reducer, shape, Budget("64"))
    assert reducer.seen == []


def test_stages_that_leave_the_sequence_alone_leave_its_width():
    around, cache = Stage("decoder", 3, "around", keep=10), Stage("decoder", 31, "kv", keep=700)
    stages = (around, Stage("decoder", 3), cache)
    assert plan(*stages) == stages


def test_tokens_after_the_last_cut_before_the_decoder():
    stages = (
        Stage("tower", 3, keep=100),
        Stage("tower", 22, keep=60, extra=4),
        Stage("projected"),
        Stage("decoder", 2, keep=0),
    )
    assert tokens_after(stages, SHAPE) == 64
    assert tokens_after(stages[2:], SHAPE) == 576
    assert tokens_after((), replace(SHAPE, views=5)) == 5 * 576
    assert tokens_after(stages, replace(SHAPE, views=5)) == 5 * 64
    assert tokens_after([*stages[:2], Stage("projected", keep=7)], replace(SHAPE, views=5)) == 7
    assert tokens_after([Stage("tower", 22, keep=9, extra=2, cls=True)], SHAPE) == 12


def test_largest_top_k_counts_kept_rows_only():
    assert largest_top_k(()) == 0
    assert largest_top_k([Stage("tower", 3), Stage("tower", 4, keep=7, extra=9), Stage("decoder", 1, keep=3)]) == 7
