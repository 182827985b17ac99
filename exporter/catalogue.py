"""What the methods say of themselves, for the command line."""

from __future__ import annotations

import inspect
from dataclasses import fields

from engines.tables import Table
from exporter.family import Family
from exporter.reducer import Reducer
from exporter.registry import families, method, method_class, method_names

REASONS = {
    "cls": "no [CLS]",
    "clip": "not a CLIP tower",
    "video": "no video input",
    "text": "no prompt embeddings",
    "pixels": "no pictures",
}


def listing() -> Table:
    """Every method: paper, site, defaults."""
    rows = []
    for name in method_names():
        found = method_class(name)
        checked = "unverified" if found.unverified else ""
        rows.append((name, found.title, found.arxiv or "-", found.site, checked, _defaults(found) or "-"))
    note = "unverified: nobody published code whose selections ours could be compared with"
    return Table("Methods", ("--method", "name", "arXiv", "site", "", "parameters"), tuple(rows), note)


def why_not(method: Reducer, family: type[Family]) -> str | None:
    """Why a method has no meaning for a family; None if it has one."""
    if method.pictures and not family.sees:
        return "reads text only"
    if method.positions == "slot" and family.axes > 1:
        return "positions on three axes"
    missing = sorted((method.needs & REASONS.keys()) - family.offers)
    return REASONS[missing[0]] if missing else None


def matrix() -> Table:
    """Every method against every family: where it works, or why it has no meaning there."""
    known = families()
    rows = []
    for name in method_names():
        found = method(name)
        rows.append((name, *(why_not(found, each) or _how(found, each) for each in known)))
    note = "port: the authors score by [CLS], which this tower does not have; what ours does is among its differences"
    return Table("Methods by family", ("--method", *(each.title for each in known)), tuple(rows), note)


def _how(method: Reducer, family: type[Family]) -> str:
    """Whether the method is the authors' own there."""
    ported = "cls" not in family.offers and any("without [CLS]" in line for line in method.differences)
    return "port" if ported else "yes"


def describe(name: str) -> str:
    """One method in full: its own docstring, the paper, and where it departs from the authors' code."""
    found = method_class(name)
    source = f" (arXiv {found.arxiv})" if found.arxiv else ""
    lines = [f"{found.title}: {found.paper}{source}", "", inspect.cleandoc(found.__doc__ or "")]
    lines += [
        "",
        f"Site: {found.site}. Positions: {found.positions}. Parameters: {_defaults(found) or 'none'}.",
    ]
    if found.unverified:
        lines += ["", "Unverified: nobody published code whose selections ours could be compared with."]
    if found.differences:
        lines += ["", "Differences:", *(f"  - {difference}" for difference in found.differences)]
    return "\n".join(lines)


def _defaults(found: type[Reducer]) -> str:
    return ", ".join(f"{field.name}={field.default}" for field in fields(found) if field.init)
