import numpy as np
import pytest

from engines.errors import UserError
from engines.geometry import Geometry
from engines.layout import lay_out
from tests.engines.numpy_bundle import form, sight

I, V = 4, 20  # noqa: E741 - the placeholders
PAIR = form(tokens=2)
LONG = form(part="vision.long", tokens=3, patches=20, mrope=None)
FILM = form(part="vision.film", kind="video", token_id=V, views=2, tokens=2, patches=18,
            mrope={"grid": [2, 3, 3], "step": 5},
            preprocess=dict(PAIR.preprocess) | {"views": {"kind": "frames", "count": 2}})  # fmt: skip
NEW, KEPT, MROPE = (Geometry((PAIR, LONG, FILM), I, how) for how in ("renumber", "keep", "mrope"))


def test_placeholders_expand_and_rows_are_numbered_anew():
    layout = lay_out([[7, I, 8]], [[sight(3, 6)]], NEW)
    assert layout.input_ids.tolist() == [[7, I, I, 8]]
    assert layout.mask.tolist() == [[1, 1, 1, 1]]
    assert layout.offsets.tolist() == [[0, 1, 2, 3]]
    assert layout.advance.tolist() == [4]


def test_kept_positions_leave_room_for_what_was_pruned():
    layout = lay_out([[7, I, 8, I, 9]], [[sight(3, 6), sight(0, 8)]], KEPT)
    assert layout.offsets.tolist() == [[0, 1 + 3, 1 + 6, 10, 11 + 0, 11 + 8, 20]]
    assert layout.advance.tolist() == [21]


def test_each_picture_is_as_long_as_its_form():
    seen = [sight(0, 9, 19, form=1), sight(17, -1, form=2), sight(2, 3)]
    layout = lay_out([[I, V, 8, I]], [seen], KEPT)
    assert layout.input_ids.tolist() == [[I, I, I, V, V, 8, I, I]]
    assert layout.offsets.tolist() == [[0, 9, 19, 20 + 17, 19, 20 + 18, 39 + 2, 39 + 3]]
    assert layout.advance.tolist() == [20 + 18 + 1 + 9]


def test_empty_slots_take_a_row_and_no_position():
    seen = [sight(3, -2)]
    new, kept, axes = (lay_out([[7, I, 8], [5]], [seen, []], how) for how in (NEW, KEPT, MROPE))
    assert new.input_ids.tolist() == [[7, I, I, 8], [5, 0, 0, 0]]
    assert new.mask.tolist() == kept.mask.tolist() == [[1, 1, 0, 1], [1, 0, 0, 0]]
    assert (new.offsets.tolist(), new.advance.tolist()) == ([[0, 1, 0, 2], [0, 0, 0, 0]], [3, 1])
    assert (kept.offsets[0].tolist(), kept.advance.tolist()) == ([0, 4, 0, 10], [11, 1])
    assert axes.offsets[:, 0].T.tolist() == [[0, 0, 0], [1, 2, 1], [0, 0, 0], [4, 4, 4]]
    none = lay_out([[I, 8]], [[sight(-2, -2)]], NEW)
    assert (none.mask.tolist(), none.offsets.tolist(), none.advance.tolist()) == ([[0, 0, 1]], [[0, 0, 0]], [1])


def test_positions_on_three_axes():
    layout = lay_out([[7, V, 8], [I, 9]], [[sight(2, 16, form=2)], [sight(-1, 5)]], MROPE)
    assert layout.offsets.shape == (3, 2, 4)
    assert layout.offsets[:, 0].T.tolist() == [[0, 0, 0], [1, 1, 3], [6, 3, 2], [7, 7, 7]]  # 1 + max(5, 2, 2) + 1
    assert layout.offsets[:, 1, :3].T.tolist() == [[0, 0, 0], [0, 1, 2], [3, 3, 3]]  # merged rows: the start
    assert layout.advance.tolist() == [8, 4]


def test_shorter_sequences_are_padded_right_with_anything_but_placeholders():
    layout = lay_out([[7], [I, 5, 6], [8, 9]], [[], [sight(1, 2)], []], KEPT)
    assert layout.mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert layout.offsets.tolist() == [[0, 0, 0, 0], [1, 2, 9, 10], [0, 1, 0, 0]]
    assert layout.advance.tolist() == [1, 11, 2]
    assert (layout.input_ids == I).sum() == 2
    first = Geometry((form(token_id=1),), 0, "keep")
    assert (lay_out([[5], [5, 6]], [[], []], first).input_ids == [[5, 2], [5, 6]]).all()


def test_spans_of_missing_pictures_stand_behind_the_text():
    seen = [sight(0, 1), sight(0, -2)]
    layout = lay_out([[7, I, 8, I], [7, I], [7, 8, 9]], [seen, seen[:1], []], NEW, spans=2)
    assert layout.span_starts.tolist() == [[1, 4], [1, 3], [3, 5]]
    assert layout.mask.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]
    assert layout.input_ids.shape == (3, 7)


def test_without_spans_there_are_no_starts():
    assert lay_out([[7, I], [5]], [[sight(0, 1)], []], NEW).span_starts.shape == (2, 0)


@pytest.mark.parametrize("geometry", [NEW, KEPT])
def test_extents_agree_with_the_layout(geometry):
    prompt, seen = [7, I, 8, I, V, 9], [sight(0, -2), sight(2, 8, 9, form=1), sight(7, 8, form=2)]
    layout = lay_out([prompt], [seen], geometry)
    assert geometry.extent(prompt, seen) == (layout.mask.shape[1], layout.advance[0])
    assert layout.advance[0] == layout.offsets.max() + 1


@pytest.mark.parametrize(
    ("prompts", "seen", "reason"),
    [
        ([[7, I]], [[]], r"1 image token\(s\) but 0 picture\(s\)"),
        ([[7]], [[sight(0, 1)]], r"0 image token\(s\) but 1 picture\(s\)"),
        ([[7, I], [8, I]], [[sight(0, 1), sight(0, 1)], []], r"1 image token\(s\) but 2 picture\(s\)"),
        ([[I, V]], [[sight(0, 1, form=2), sight(0, 1)]], "picture 1 of a prompt is a video, whose token is 20, but"),
        ([[]], [[]], "empty"),
        ([[I, I, I]], [[sight(0, 1)] * 3], "3 pictures, the export allows 2"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompts, seen, reason):
    with pytest.raises(UserError, match=reason) as caught:
        lay_out(prompts, seen, NEW, spans=2)
    assert "\n" not in str(caught.value)


def test_positions_are_those_of_qwen():
    """Every subset of patches stands where transformers puts it in the whole picture."""
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    rows, cols, merge = 3, 5, 2
    whole = form(patches=15, tokens=15, grid=[rows, cols], mrope={"grid": [1, rows, cols], "step": 1})
    prompt = [7, 8, I, 9, I, 10, 11]
    ids = [token for number in prompt for token in [number] * (15 if number == I else 1)]
    model = Qwen2_5_VLModel.__new__(Qwen2_5_VLModel)
    torch.nn.Module.__init__(model)
    model.config = Qwen2_5_VLConfig(vision_config={"spatial_merge_size": merge})
    grid = torch.tensor([[1, rows * merge, cols * merge]] * 2)
    kinds = torch.tensor([[int(token == I) for token in ids]])
    theirs, deltas = model.get_rope_index(torch.tensor([ids]), kinds, image_grid_thw=grid)
    everything = list(range(15))
    layout = lay_out([prompt], [[sight(*everything)] * 2], Geometry((whole,), I, "mrope"))
    np.testing.assert_array_equal(layout.offsets, theirs.numpy())
    assert layout.advance[0] == len(ids) + int(deltas[0])
    kept = [[0, 3, 7, 14], [2, 5, 6, 9]]
    pruned = lay_out([prompt], [[sight(*each) for each in kept]], Geometry((form(tokens=4, patches=15, mrope={
        "grid": [1, rows, cols], "step": 1}),), I, "mrope"))  # fmt: skip
    left = [0, 1, *(2 + k for k in kept[0]), 17, *(18 + k for k in kept[1]), 33, 34]
    np.testing.assert_array_equal(pruned.offsets, theirs.numpy()[..., left])
    assert pruned.advance[0] == layout.advance[0]
