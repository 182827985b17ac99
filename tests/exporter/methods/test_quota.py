import numpy as np
import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.frame_sizes import capped, counts, grids, spacings
from exporter.methods.quota import QuoTA
from exporter.reducer import Grid, Shape, Stage
from tests.exporter.methods.common import exported, golden_paths, hidden_taps, normal, play_case, uniform

FRAMES, SIDE = 6, 4
PATCHES = SIDE * SIDE


def quota(scores, states, keep, version="v1"):
    method = QuoTA(version=version)
    taps = hidden_taps(states, views=FRAMES, video=True, grid=(SIDE, SIDE), inputs={"frame_scores": scores})
    (stage,) = method.plan(taps.shape, Budget(str(keep)))
    return method.select(taps, stage)


def rows(selection, states):
    return selection.mix[:, 0] @ states


@pytest.mark.parametrize("path", golden_paths("quota"), ids=lambda path: path.stem)
def test_recorded_vectors(path):
    assert play_case(path) != []


def test_one_cut_into_slots():
    shape = Shape(PATCHES, Grid(SIDE, SIDE), views=FRAMES, video=True)
    assert QuoTA().plan(shape, Budget("25%")) == (Stage("projected", keep=24, blanks=True),)


def test_equal_scores_of_equal_budget_keep_every_frame_as_it_is():
    states = normal(2, FRAMES * PATCHES, 8)
    chosen = quota(torch.full((2, FRAMES), 0.5), states, FRAMES * PATCHES)
    torch.testing.assert_close(rows(chosen, states), states)
    assert torch.equal(chosen.indices[:, 0], torch.arange(FRAMES * PATCHES).expand(2, -1))


def test_frames_of_no_worth_leave_and_slots_behind_the_last_stay_empty():
    states = normal(1, FRAMES * PATCHES, 8)
    scores = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    chosen = quota(scores, states, 32, "v2")  # no frame gets more than it has
    assert chosen.indices[0, 0].tolist() == [*range(PATCHES), *[-2] * 16]
    assert rows(chosen, states)[0, PATCHES:].abs().max() == 0


def test_a_frame_may_grow_in_the_first_version():
    states = normal(1, FRAMES * PATCHES, 8)
    chosen = quota(torch.tensor([[1.0, 0, 0, 0, 0, 0]]), states, 36)
    grown = torch.nn.functional.interpolate(
        states[:, :PATCHES].reshape(1, SIDE, SIDE, 8).permute(0, 3, 1, 2), (6, 6), mode="bilinear"
    )
    torch.testing.assert_close(rows(chosen, states)[0], grown[0].flatten(1).T)


def test_the_third_version_takes_tokens_at_equal_distances():
    states = normal(1, FRAMES * PATCHES, 8)
    scores = torch.tensor([[0.5, 0.5, 0, 0, 0, 0]])
    chosen = quota(scores, states, 14, "v3")
    want = torch.linspace(0, PATCHES - 1, 7).long()
    assert torch.equal(chosen.indices[0, 0], torch.cat([want, want + PATCHES]))
    torch.testing.assert_close(rows(chosen, states)[0], states[0, chosen.indices[0, 0]])


def test_excess_over_the_cap_goes_to_the_others():
    weights = torch.tensor([[0.7, 0.2, 0.1]])
    found = capped(weights, 0.4)[0]
    assert found[0] == pytest.approx(0.4)
    assert found[1] == pytest.approx(0.2 + 0.2 / 0.7 * 0.3)
    assert found[2] == pytest.approx(0.1 + 0.1 / 0.7 * 0.3)


@pytest.mark.parametrize(
    ("count", "grid"), [(0, (0, 0)), (1, (1, 1)), (2, (2, 1)), (5, (2, 2)), (6, (3, 2)), (9, (3, 3))]
)
def test_grids_hold_no_more_than_the_count(count, grid):
    assert tuple(int(side) for side in grids(torch.tensor(count))) == grid


def test_counts_are_cut_off():
    assert counts(torch.tensor([[0.255, 0.745]]), 10).tolist() == [[2, 7]]


def test_spacings_are_torch_s_own():
    table = np.array(spacings(10))
    assert table[4].tolist()[:4] == torch.linspace(0, 9, 4).long().tolist()
    assert table[1].tolist() == [0] * 10


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_a_batch_is_its_parts_and_the_graph_is_the_same(version):
    states, scores = normal(2, FRAMES * PATCHES, 8), uniform(2, FRAMES)
    QuoTA(version=version).plan(Shape(PATCHES, Grid(SIDE, SIDE), views=FRAMES), Budget("30"))

    def run(scores, states):
        return rows(quota(scores, states, 30, version), states)

    both = exported(run, scores, states)
    alone = torch.cat([run(scores[b : b + 1], states[b : b + 1]) for b in range(2)])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-5)


def test_what_the_authors_code_cannot_do_is_refused():
    with pytest.raises(ValueError, match="version v4: choose from v1, v2, v3"):
        QuoTA(version="v4")
    with pytest.raises(UserError, match="version v1 needs square frames"):
        QuoTA().plan(Shape(6, Grid(2, 3), views=2), Budget("4"))
