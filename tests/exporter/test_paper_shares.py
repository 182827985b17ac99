"""What a method leaves of the dense model's work at its authors' settings, as their papers count it."""

import pytest

from engines.flops import Geometry, papers_macs
from exporter.budget import Budget
from exporter.plan import make_plan
from exporter.reducer import Grid, Shape
from exporter.registry import method

SEVEN_B = Geometry(32, 4096, 4096, 11008, 32000)


def share(name, keep, params, side, text):
    """Multiply-adds of a 7B decoder's prefill as a share of the dense one's, in percent."""
    grid = Grid(side, side)
    shape = Shape(side * side, grid, tower_layers=24, tower_last=22, decoder_layers=32, heads=32, kv_heads=32)
    stages = make_plan(name, method(name, params), shape, Budget(keep))
    cuts = {stage.layer: stage.width for stage in stages if stage.stack == "decoder" and stage.keep is not None}
    now, lengths = shape.tokens, []
    for layer in range(32):
        lengths.append(now + text)
        now = cuts.get(layer, now)
    return 100 * papers_macs(SEVEN_B, lengths) / papers_macs(SEVEN_B, [shape.tokens + text] * 32)


@pytest.mark.parametrize(
    ("name", "keep", "params", "percent"),
    [
        ("fastv", "50%", {"k": "2"}, 57.2),
        ("fastv", "25%", {"k": "3"}, 38.3),
        ("pyramiddrop", "72", {}, 51.8),
        ("transprune", "72", {}, 46.6),
        ("sparsevlm", "192", {}, 41.8),
    ],
)
def test_a_picture_of_576_tokens_and_64_words(name, keep, params, percent):
    assert share(name, keep, params, 24, 64) == pytest.approx(percent, abs=0.06)


@pytest.mark.parametrize(("keep", "percent"), [("50%", 57.9), ("25%", 37.0), ("12.5%", 26.6)])
def test_a_robot_s_picture_of_256_tokens_and_21_words(keep, percent):
    assert share("vla-pruner", keep, {}, 16, 21) == pytest.approx(percent, abs=0.06)
