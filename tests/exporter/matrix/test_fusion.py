"""What TensorRT makes of every method, as `tests.exporter.matrix.fusion` wrote it; `test_pairs` looks, too."""

import pytest

from tests.exporter.matrix import fusion
from tests.exporter.matrix.test_pairs import DEEP, LABEL, SHALLOW, covering, models, play

__all__ = ["models"]
APART = [pair for pair in covering() if pair not in (*DEEP, *SHALLOW)]  # minutes each


def test_every_method_has_a_row():
    assert set(fusion.table()) == {str(pair) for pair in covering()}


def test_all_attention_is_fused_and_nothing_waits():
    rows = {f"{pair} {part}": profiles for pair, row in fusion.table().items() for part, profiles in row.items()}
    assert [name for name, profiles in rows.items() if any(fused != all_ for all_, fused, *_ in profiles)] == []
    assert [name for name, profiles in rows.items() if any(waits for _, _, waits, *_ in profiles)] == []


def test_what_is_worse_is_told():
    listed = {"decoder": [[4, 4, 0, 60, 2, 5], [4, 4, 0, 50, 2, 5]]}
    assert fusion.worse(listed, listed) == []
    assert fusion.worse({"decoder": [[4, 4, 0, 59, 1, 4], [4, 4, 0, 50, 2, 5]]}, listed) == []
    assert fusion.worse({"decoder": [[4, 3, 0, 60, 2, 6], [4, 4, 1, 50, 2, 5]]}, listed) == [
        "decoder, range 0: fused 3, in the table 4",
        "decoder, range 0: copies 6, in the table 5",
        "decoder, range 1: host_copies 1, in the table 0",
    ]
    assert fusion.worse({"decoder": [[4, 4, 0, 61, 2, 5], [4, 4, 0, 50, 2, 5]]}, listed, fusion.EXACT) == []
    assert fusion.worse({}, listed) == ["parts [], in the table ['decoder']"]


@pytest.mark.matrix
@pytest.mark.parametrize("pair", APART, ids=str)
def test_what_no_other_test_builds(pair, models, tmp_path):
    outcome = play(pair, models, tmp_path, parity="none")
    fusion.check(pair, outcome.contract["engines"][LABEL])
