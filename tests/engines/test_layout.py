import numpy as np
import pytest

from engines.errors import UserError
from engines.layout import Geometry, lay_out

I = 4  # noqa: E741 - the image token
NEW = Geometry(image_token_id=I, embedded=2, patches=9, keep_positions=False)
KEPT = Geometry(image_token_id=I, embedded=2, patches=9, keep_positions=True)


def rows(*values):
    return [np.array(value) for value in values]


def test_image_tokens_expand_and_rows_are_numbered_anew():
    layout = lay_out([[7, I, 8]], [rows([3, 6])], NEW)
    assert layout.input_ids.tolist() == [[7, I, I, 8]]
    assert layout.mask.tolist() == [[1, 1, 1, 1]]
    assert layout.offsets.tolist() == [[0, 1, 2, 3]]
    assert layout.advance.tolist() == [4]


def test_kept_positions_leave_room_for_what_was_pruned():
    layout = lay_out([[7, I, 8, I, 9]], [rows([3, 6], [0, 8])], KEPT)
    assert layout.offsets.tolist() == [[0, 1 + 3, 1 + 6, 10, 11 + 0, 11 + 8, 20]]
    assert layout.advance.tolist() == [21]


def test_shorter_sequences_are_padded_right_with_anything_but_the_image_token():
    layout = lay_out([[7], [I, 5, 6], [8, 9]], [[], rows([1, 2]), []], KEPT)
    assert layout.mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert layout.offsets.tolist() == [[0, 0, 0, 0], [1, 2, 9, 10], [0, 1, 0, 0]]
    assert layout.advance.tolist() == [1, 11, 2]
    assert (layout.input_ids == I).sum() == 2
    zero = Geometry(image_token_id=0, embedded=2, patches=9, keep_positions=False)
    assert (lay_out([[5], [5, 6]], [[], []], zero).input_ids != 0).all()


def test_spans_of_missing_pictures_stand_behind_the_text():
    layout = lay_out([[7, I, 8, I], [7, I], [7, 8, 9]], [rows([0, 1], [0, 1]), rows([0, 1]), []], NEW, spans=2)
    assert layout.span_starts.tolist() == [[1, 4], [1, 3], [3, 5]]
    assert layout.mask.tolist() == [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]
    assert layout.input_ids.shape == (3, 7)


def test_without_spans_there_are_no_starts():
    assert lay_out([[7, I], [5]], [rows([0, 1]), []], NEW).span_starts.shape == (2, 0)


@pytest.mark.parametrize("geometry", [NEW, KEPT])
def test_counts_agree_with_the_layout(geometry):
    prompt = [7, I, 8, I, I, 9]
    layout = lay_out([prompt], [rows([0, 1], [2, 8], [7, 8])], geometry)
    assert geometry.rows(prompt) == layout.mask.sum()
    assert geometry.advance(prompt) == layout.advance[0] == layout.offsets.max() + 1


@pytest.mark.parametrize(
    ("prompts", "kept", "reason"),
    [
        ([[7, I]], [[]], r"1 image token\(s\) but 0 picture\(s\)"),
        ([[7]], [rows([0, 1])], r"0 image token\(s\) but 1 picture\(s\)"),
        ([[7, I], [8, I]], [rows([0, 1], [0, 1]), []], r"1 image token\(s\) but 2 picture\(s\)"),
        ([[]], [[]], "empty"),
        ([[I, I, I]], [rows([0, 1], [0, 1], [0, 1])], "3 pictures, the export allows 2"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompts, kept, reason):
    with pytest.raises(UserError, match=reason):
        lay_out(prompts, kept, NEW, spans=2)
