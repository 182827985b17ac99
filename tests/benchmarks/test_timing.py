"""Lines are interleaved, and ratios are those of one round."""

from collections import Counter

import pytest

from benchmarks import timing
from benchmarks.timing import Run, interleaved, ratios, spread, stages


def test_every_round_runs_each_line_once_in_rotated_order():
    order = []
    lines = {
        name: Run(lambda name=name: (order.append(name), None), lambda seen: order.append(seen[0]), {})
        for name in "abc"
    }
    times = interleaved(lines, 3)
    starts = [name for name in order if name]
    assert starts == [*"abc", *"bca", *"cab"]
    assert Counter(len(rounds) for rounds in times.values()) == {3: 3}


def test_vision_ends_where_prefill_begins(monkeypatch):
    clock = iter([0.0, 2.0, 5.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    waits = []
    run = Run(lambda: ("rows", None), lambda seen: None, {})
    assert interleaved({"a": run}, 1, lambda: waits.append(1)) == {"a": [(2.0, 3.0)]}
    assert len(waits) == 3  # before, between, behind


def test_the_first_token_takes_both():
    assert stages([(1.0, 2.0), (3.0, 4.0)]) == {"vision": [1, 3], "prefill": [2, 4], "first token": [3, 7]}


def test_ratios_are_of_the_same_round():
    found = ratios([(4.0, 4.0), (40.0, 10.0)], [(2.0, 1.0), (10.0, 10.0)])
    assert found["vision"]["rounds"] == [2, 4]
    assert found["prefill"]["rounds"] == [4, 1]
    assert found["first token"]["rounds"] == pytest.approx([8 / 3, 2.5])
    assert (found["vision"]["median"], found["vision"]["min"], found["vision"]["max"]) == (3, 2, 4)


def test_ratios_of_unequal_rounds_are_refused():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ratios([(1.0, 1.0)], [(1.0, 1.0), (1.0, 1.0)])


def test_spread_is_median_least_most():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2, "min": 1, "max": 3}
