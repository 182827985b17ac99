"""The order of the passes, and what each of them did."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graph_passes import canonical, fold, fuse, lower_diverse, lower_select, mask, rotary, row_demand, static
from graph_passes.base import Pass
from graph_passes.cost import Cost, cost

SHARED: Mapping[str, Pass] = {
    "fold": fold.run,
    "fuse": fuse.run,
    "rotary": rotary.run,
    "fold_fused": fold.run,  # fusing leaves one copy of its tables for each layer
    "canonical": canonical.run,
    "mask": mask.run,
    "row_demand": row_demand.run,  # sees the markers as what they are: makers of row numbers
}
LOWERED: Mapping[str, Pass] = {  # to standard operators
    "lower_diverse": lower_diverse.run,
    "lower_select": lower_select.run,
    "static": static.run,
}
MARKED: Mapping[str, Pass] = {  # the same for a graph whose markers become functions, behind everything else
    "lower_diverse": lower_diverse.rest,
    "static": static.run,
}
PIPELINE: Mapping[str, Pass] = {**SHARED, **LOWERED}


@dataclass(frozen=True)
class Report:
    """What one pass did to a graph."""

    name: str
    rewrites: int
    refusals: tuple[str, ...]
    before: Cost
    after: Cost
    seconds: float

    @property
    def modified(self) -> bool:
        """Whether the graph was another one afterwards."""
        return self.rewrites > 0


def optimise(
    model: ir.Model, axes: Mapping[str, int] | None = None, passes: Mapping[str, Pass] = PIPELINE
) -> list[Report]:
    """Run every pass in order on `model`, in place; `axes` sizes its dynamic axes in the reports."""
    reports = []
    before = cost(model, axes or {})
    for name, run in passes.items():
        start = time.perf_counter()
        result = run(model)
        seconds = time.perf_counter() - start
        after = cost(model, axes or {}) if result.modified else before
        reports.append(Report(name, result.rewrites, result.refusals, before, after, seconds))
        before = after
    return reports
