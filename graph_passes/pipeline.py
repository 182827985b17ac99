"""The order of the passes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from graph_passes import fold, fuse, lower_diverse, lower_select
from graph_passes.base import Pass, PassResult

PIPELINE: Mapping[str, Pass] = {
    "fold": fold.run,
    "fuse": fuse.run,
    "fold_fused": fold.run,  # fusing leaves one copy of its tables for each layer
    "lower_diverse": lower_diverse.run,
    "lower_select": lower_select.run,
}


def optimise(model: ir.Model, passes: Mapping[str, Pass] = PIPELINE) -> dict[str, PassResult]:
    """Run every pass in order on `model`, in place; returns each pass's report by name."""
    return {name: run(model) for name, run in passes.items()}
