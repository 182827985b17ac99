"""Vectors of TransPrune: a small decoder with its weights, what every stage scored and kept, and what came out."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.methods.transprune import TransPrune
from tools.golden import Arrays, Check
from tools.goldens.decoders import config
from tools.goldens.recorded import listed, recorded, watched
from tools.goldens.staircases import check


def checks(case: Arrays) -> Iterator[Check]:
    """All of it."""
    cfg = config(case)
    layers = cfg["prune_after_layers_1based"]
    reducer = watched(TransPrune)(
        layers=listed(layers),
        ratios=listed(cfg["ratios"]),
        accumulate=listed(cfg["accumulate_layers_1based"]),
    )
    yield check(case, recorded(case), reducer, layers)
