"""What the graph passes did to a bundle's parts: tables from bundle.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.tables import Table
from engines.units import amount, size

Json = Mapping[str, Any]
COLUMNS = ("pass", "rewrites", "nodes", "FLOPs", "bytes written")
NOTE = (
    "fp32, one prompt with forty words. FLOPs: matrix products, attention, convolutions. -: shapes are not known yet."
)
MOST_REFUSALS = 3


def pass_tables(bundle: Json) -> list[Table]:
    """One table a part: each pass with its rewrites, and nodes, FLOPs and written bytes before and after it."""
    return [_table(name, part["passes"]) for name, part in bundle["parts"].items()]


def _table(part: str, passes: list[Json]) -> Table:
    rows = [_row(each["name"], str(each["rewrites"]), each["before"], each["after"]) for each in passes]
    rows.append(_row("all", "", passes[0]["before"], passes[-1]["after"]))
    refused = [f"{each['name']}: {reason}." for each in passes for reason in _shown(each["refusals"])]
    return Table(f"Passes over {part}", COLUMNS, tuple(rows), " ".join([NOTE, *refused]))


def _row(name: str, rewrites: str, before: Json, after: Json) -> tuple[str, ...]:
    nodes = _change(f"{before['nodes']}", f"{after['nodes']}")
    flops = _change(*(_told(side["flops"], "FLOP") for side in (before, after)))
    written = _change(*(_told(side["bytes"], "B") for side in (before, after)))
    return name, rewrites, nodes, flops, written


def _change(before: str, after: str) -> str:
    return after if before == after else f"{before} -> {after}"


def _told(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return size(value) if unit == "B" else amount(value, unit)


def _shown(refusals: list[str]) -> list[str]:
    """The first few, and how many more there are."""
    more = len(refusals) - MOST_REFUSALS
    return [*refusals[:MOST_REFUSALS], *([f"and {more} more"] if more > 0 else [])]
