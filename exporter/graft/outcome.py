"""The whole way of `tp-export graft`: read, cut, prove, write, tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.tables import Table
from exporter.budget import Budget
from exporter.graft.blocks import Tower
from exporter.graft.graft import Prepared, finish, prepare, put
from exporter.graft.planning import Plan, plan
from exporter.graft.proof import Finding, prove
from exporter.graft.write import check_output, write
from exporter.registry import method
from graph_passes.cost import Cost, cost


@dataclass(frozen=True)
class Outcome:
    """What was found, cut and proven."""

    output: Path
    tower: Tower
    plan: Plan
    before: Cost
    after: Cost
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        """Whether every comparison holds, so that the file was written."""
        return all(finding.good for finding in self.findings)

    def tables(self) -> list[Table]:
        """For the terminal."""
        tower, stages = self.tower, self.plan.stages
        rows = [tower.front + tower.patches, *(tower.front + (s.keep or 0) + s.extra for s in stages)]
        layers = ", ".join(f"{stage.layer}" + (" (middle)" if stage.at == "mid" else "") for stage in stages)
        front = "no rows" if not tower.front else f"{tower.front} row{'s' * (tower.front > 1)}"
        found = (
            ("layers, heads", f"{len(tower.blocks)}, {tower.heads}"),
            ("tokens", f"{rows[0]}: {tower.grid.rows} x {tower.grid.cols} patches behind {front}"),
            ("cut behind layer", f"{layers} of 0 to {len(tower.blocks) - 1}: {self.plan.why}"),
            ("rows", " -> ".join(map(str, rows))),
            ("nodes", f"{self.before.nodes} -> {self.after.nodes}"),
            ("FLOPs of a picture", f"{_flops(self.before)} -> {_flops(self.after)}{self._share()}"),
        )
        proven = tuple((each.what, each.found, "pass" if each.good else "FAIL") for each in self.findings)
        return [
            Table("Graft", ("", "found"), found),
            Table("Proof, in ONNX Runtime on random pictures", ("comparison", "result", "verdict"), proven),
        ]

    def _share(self) -> str:
        if not self.before.flops or self.after.flops is None:
            return ""
        return f" ({self.after.flops / self.before.flops:.1%})"


def graft(
    path: Path, output: Path, name: str, keep: str, layer: int | None, params: Mapping[str, str], *, force: bool
) -> Outcome:
    """Cut the model at `path`, prove it, and write it to `output` if it is proven.

    Raises:
        UserError: see `prepare`, `plan`, `put` and `check_output`.
    """
    check_output(output, path, force=force)
    reducer = method(name, params)
    prepared = prepare(path)
    planned = plan(prepared.tower, reducer, name, Budget(keep), layer)
    raw = put(prepared.again(), reducer, name, planned.stages, planned.shape)
    final = raw.model.clone()
    finish(final)
    findings = tuple(prove(path, prepared, final, raw, planned.shape))
    costs = _cost(prepared), cost(final, {"batch": 1})
    outcome = Outcome(output, prepared.tower, planned, *costs, findings)
    if outcome.good:
        write(final, output, force=force)
    return outcome


def _cost(prepared: Prepared) -> Cost:
    return cost(prepared.model, {"batch": 1})


def _flops(found: Cost) -> str:
    if found.flops is None:
        return "unknown"
    return f"{found.flops / 1e9:.2f} G" if found.flops > 1e8 else f"{found.flops / 1e6:.2f} M"
