"""FlowCut: flow scores, what they drop, and schedules."""

from dataclasses import replace

import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.calibrate import calibrate
from exporter.eager_taps import Seen
from exporter.maths.flow import Drop, flow_to_text, inflow, to_prune
from exporter.methods.flowcut import FlowCut, cuts
from exporter.recipe import Recipe
from exporter.reducer import QKV, Grid, Shape, Stage
from exporter.registry import method
from tests.exporter.methods.common import attention, exported, golden_paths, in_turn, normal, play_case, taps
from tests.exporter.methods.tower import pictures, tower_shape, walked
from tests.exporter.tiny_stack import Tiny, prompts

CLIP = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22)


@pytest.mark.parametrize("path", golden_paths("flowcut"), ids=lambda path: path.stem)
def test_golden(path):
    assert len(play_case(path)) == 4


def layer(n=10, has_cls=True, batch=1):
    q, k, v = (normal(batch, 2, n, 4, seed=seed) for seed in range(3))
    seen = {0: Seen(attention=attention(batch, 2, n, n), qkv={True: QKV(q, k, v)})}
    return taps(seen, patches=n - has_cls, has_cls=has_cls, batch=batch), q[0], k[0], v[0]


def test_the_score_by_hand():
    given, _, _, v = layer()
    a = given.rows(0, "cls")[0, :, 0].mean(0)
    alive = torch.ones(1, 1, 9)
    alive[0, 0, 4] = 0
    left = [j for j in range(1, 10) if j != 5]
    logits = torch.stack([v[:, 0] @ v[:, j].T for j in [0, *left]], -1).diagonal().T  # [H, all that are alive]
    e = logits.softmax(-1).mean(0)[1:]
    strength = v.mean(0).abs().sum(-1)[left]
    shares, scores = inflow(given, 0, alive)
    torch.testing.assert_close(shares[0, 0, [j - 1 for j in left]], a[left] / a[left].sum())
    torch.testing.assert_close(scores[0, 0, [j - 1 for j in left]], (a[left] / a[left].sum() + e / e.sum()) * strength)
    assert scores[0, 0, 4] == 0


def test_without_cls_the_mean_query_looks():
    given, q, k, v = layer(has_cls=False)
    alive = torch.ones(1, 1, 10)
    alive[0, 0, 7] = 0
    left = [j for j in range(10) if j != 7]
    a = torch.stack([(k[h, left] @ q[h, left].mean(0) / 2).softmax(-1) for h in range(2)]).mean(0)
    shares, scores = inflow(given, 0, alive)
    torch.testing.assert_close(shares[0, 0, left], a)
    torch.testing.assert_close(scores[0, 0, left], a * v.mean(0).abs().sum(-1)[left])
    assert scores[0, 0, 7] == 0


def test_flow_to_the_last_token_by_hand():
    given, q, k, v = layer(has_cls=False)
    given = taps(dict(given.seen), patches=6, has_cls=False)
    given = type(given)((2,), 6, 10, {0: given.seen[0]}, given.shape)  # two tokens before, two behind
    given.seen[0].scale = 0.5
    a = torch.stack([(k[h, 2:8] @ q[h, -1] / 2).softmax(-1) for h in range(2)]).mean(0)
    e = torch.stack([(v[h, 2:8] @ v[h, -1] / 2).softmax(-1) for h in range(2)]).mean(0)
    torch.testing.assert_close(flow_to_text(given, 0)[0, 0], (a + e) * v.mean(0).abs().sum(-1)[2:8])


def test_how_many_go():
    alive = torch.ones(2, 1, 100)
    flow = torch.full((2, 1, 100), 0.01)
    flow[1] = torch.eye(100)[3]

    def wish(target, coupled=False, alive=alive):
        stage = Drop("tower", target=target, left=4, coupled=coupled)
        return to_prune(flow, alive, stage, has_cls=True).flatten().tolist()

    assert wish(20) == [0, 40]
    assert wish(20, coupled=True) == [40]
    assert wish(91) == [0, 4]  # 4.5: halves to even
    assert wish(1, alive=flow[1:])[1] == 0  # one is left: no entropy to divide by


def test_only_if_coupled_a_picture_depends_on_those_beside_it():
    given, *_ = layer(41, batch=3)
    given.seen[0].attention[1] = attention(2, 41, 41, spread=6.0)

    def left(coupled):
        chosen = FlowCut("exact", coupled=coupled).select(given, Drop("tower", 0, target=5, left=2, coupled=coupled))
        assert torch.equal((chosen.key_bias == 0).sum(-1), chosen.outputs["tokens.0"])
        return chosen.outputs["tokens.0"]

    assert len(left(coupled=False).unique()) == 3
    assert torch.equal(left(coupled=True), left(coupled=False).amin().expand(3, 1))


@pytest.mark.parametrize("has_cls", [True, False])
@pytest.mark.parametrize("keep", [1, 5, 29, 30])
def test_exact_is_a_schedule_of_its_own_counts(keep, has_cls):
    x = pictures(1, 30, has_cls)
    exact, outputs = walked(FlowCut("exact", llm=False), x, keep, 9, has_cls)
    line = [*(int(found) for found in outputs.values()), keep] if keep < 30 else [30] * len(cuts(tower_shape(30, 9)))
    fixed, _ = walked(FlowCut(schedule=",".join(map(str, line)), llm=False), x, keep, 9, has_cls)
    assert exact.origin.shape == (1, 1, keep)
    assert torch.equal(exact.origin, fixed.origin)
    torch.testing.assert_close(exact.hidden, fixed.hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keep", [1, 2, 15, 29, 30])
@pytest.mark.parametrize("layers", [2, 3, 4, 7])
def test_every_budget_keeps_that_many_in_order(keep, layers):
    seen, _ = walked(FlowCut(), pictures(2, 30), keep, layers)
    assert seen.origin.shape == (2, 1, keep)
    assert (seen.origin.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("mode", ["schedule", "exact"])
def test_batch_and_graph_equal_one_at_a_time(mode):
    def rows(x):
        return walked(FlowCut(mode), x, 6, 6)[0].hidden

    x = pictures(3, 20)
    torch.testing.assert_close(exported(rows, x), in_turn(rows, x), rtol=1e-4, atol=1e-5)


def test_equal_patches_stay_by_index():
    x = pictures(1, 12)
    x[:, 1:] = x[:, 1:2]
    assert walked(FlowCut(), x, 4, 4)[0].origin.flatten().tolist() == [0, 1, 2, 3]
    assert walked(FlowCut("exact"), x, 4, 4)[0].origin.flatten().tolist() == [0, 1, 2, 3]


def test_a_dropped_patch_with_a_high_score_stays_away():
    given, *_ = layer()
    alive = torch.ones(1, 1, 9)
    alive[0, 0, 4] = 0
    given.carry.update(alive=alive, score=1.0 + 99 * (1 - alive))
    kept = FlowCut("exact").select(given, Stage("tower", 0, keep=8)).indices
    assert kept.flatten().tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    again = FlowCut("exact").select(given, Drop("tower", 0, target=3, left=1))
    assert again.carry["alive"][0, 0, 4] == 0
    assert again.key_bias[0, 0, 4] == 0


def test_tokens_of_several_rows_move_together():
    for name in ("exact", "schedule"):
        seen, _ = walked(FlowCut(name), pictures(1, 48, False), 5, 4, has_cls=False, unit=4)
        assert seen.hidden.shape[1] == 40  # twice as many as the decoder keeps


def test_the_plans():
    stages = FlowCut().plan(CLIP, Budget("64"))
    assert [stage.layer for stage in stages] == list(range(22))
    assert [stage.keep for stage in stages if stage.keep][:3] == [535, 495, 456]
    assert stages[-1] == Stage("tower", 21, keep=64)
    exact = FlowCut("exact").plan(CLIP, Budget("64"))
    assert [stage.keep for stage in exact] == [None] * 21 + [64]
    assert [(stage.layer, stage.left) for stage in exact if hasattr(stage, "left")] == [
        (layer, 21 - layer) for layer in range(1, 20, 2)
    ]
    assert FlowCut().plan(CLIP, Budget("576")) == FlowCut("exact").plan(CLIP, Budget("576")) == ()
    tiles = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, views=5)
    for llm in ("auto", "true", True):
        twice = FlowCut(llm=llm).plan(tiles, Budget("320"))
        assert (twice[-2].keep, twice[-1]) == (160, Stage("decoder", 1, keep=320))


@pytest.mark.parametrize(
    ("keep", "fields", "patches", "tokens"),
    [
        ("320", {}, 160, 320),  # LLaVA-NeXT: half of the budget from each view
        ("5", {"views": 2}, 3, 5),  # where halves would not do
        ("1152", {"views": 2}, None, None),
        ("1440", {}, None, 1440),
        ("2880", {}, None, None),
        ("64", {"views": 1}, 64, None),
        ("64", {"views": 1, "has_cls": False}, 128, 64),  # Qwen2-VL: twice the budget
        ("400", {"views": 1, "has_cls": False}, None, 400),
        ("64", {"views": 8, "video": True}, 64, None),
    ],
)
def test_who_is_cut_in_the_decoder_and_how_much(keep, fields, patches, tokens):
    stages = FlowCut().plan(replace(CLIP, decoder_layers=32, **{"views": 5, **fields}), Budget(keep))
    found = {stack: [s.keep for s in stages if s.stack == stack and s.keep] for stack in ("tower", "decoder")}
    assert found["tower"][-1:] == ([patches] if patches else [])
    assert found["decoder"] == ([tokens] if tokens else [])
    assert {s.layer for s in stages if s.stack == "decoder"} <= {1}


@pytest.mark.parametrize(("layers", "behind"), [(2, 0), (28, 1), (80, 2)])
def test_the_decoder_is_cut_at_the_same_share_of_its_depth(layers, behind):
    assert FlowCut().plan(replace(CLIP, views=5, decoder_layers=layers), Budget("320"))[-1].layer == behind


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"schedule": "20,9"}, "--param schedule=20,9: give 3 counts from 30 down to 5"),
        ({"schedule": "20,21,5"}, "down to 5"),
        ({"schedule": "20,9,6"}, "down to 5"),
        ({"schedule": "31,9,5"}, "from 30"),
        ({"llm": True}, "--param llm=true: 1 views of 2 patches do not hold --keep 5"),
    ],
)
def test_plans_that_do_not_fit(fields, says):
    with pytest.raises(UserError, match=says):
        FlowCut(**fields).plan(tower_shape(30, 8), Budget("5"))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"mode": "fast"}, "mode fast is neither schedule nor exact"),
        ({"schedule": "9 5"}, "schedule 9 5 is no list"),
        ({"schedule": "9,5", "mode": "exact"}, "mode exact takes no schedule"),
        ({"entropy": "1.1"}, "entropy 1.1 is not between 0 and 1"),
        ({"llm": "maybe"}, "llm maybe: choose from auto, true, false"),
    ],
)
def test_parameters_that_make_no_sense(params, says):
    with pytest.raises(UserError, match=says):
        method("flowcut", params)


def test_a_schedule_is_learnt_from_medians():
    shape = tower_shape(61, 8)
    stages = FlowCut().probe().plan(shape, Budget("6"))
    outputs = [
        {"tokens.1": torch.tensor([[a]]), "tokens.3": torch.tensor([[b]])} for a, b in ((61, 9), (61, 6), (50, 8))
    ]
    assert FlowCut().learnt(shape, stages, outputs) == "schedule=61,8,6"


def test_calibration_runs_the_exact_mode_on_pictures():
    name, _, value = calibrate(Recipe(method="flowcut", keep="9"), []).partition("=")
    assert name == "schedule"
    counts = [int(count) for count in value.split(",")]
    assert counts[-1] == 9
    assert 9 < counts[0] < 144
    assert method("flowcut", {name: value})


def test_calibration_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(UserError, match=r"--method fastervlm: nothing to calibrate; methods that have: .*flowcut"):
        calibrate(Recipe(method="fastervlm", keep="9"), [])
    with pytest.raises(UserError, match="that is every patch"):
        calibrate(Recipe(method="flowcut", keep="144"), [])
    with pytest.raises(UserError, match="no such picture"):
        calibrate(Recipe(method="flowcut", keep="9"), [tmp_path / "none.png"])


def test_the_cut_in_the_decoder_knows_each_prompts_last_token():
    stage = Stage("decoder", 1, keep=2)
    torch.manual_seed(0)
    both = prompts()
    seen = Tiny(stage, sequence=both, script={stage: FlowCut(llm=True).select}).run().sequence
    short = replace(
        both,
        hidden=both.hidden[1:, :6],
        start=both.start[1:],
        origin=both.origin[1:],
        valid=both.valid[1:, :6],
        positions=both.positions[1:, :6],
    )
    alone = Tiny(stage, sequence=short, script={stage: FlowCut(llm=True).select}).run().sequence
    assert torch.equal(seen.origin[1:], alone.origin)
    torch.testing.assert_close(seen.hidden[1:, :4], alone.hidden)
