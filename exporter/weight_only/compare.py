"""What fewer bits did to the answers: engines with quantised weights beside the graphs that they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines import contract as facts
from engines import parity
from engines.parity import Run
from engines.prompt import Prompt
from engines.registry import engine
from engines.session import Session
from engines.tables import Table

COLUMNS = ("what", "compared", "at worst", "mean")
Cells = tuple[str, str, str, str]


def compare(root: Path, contract: Mapping[str, Any], label: str) -> Table:
    """Kept indices, logits and next tokens of the bundle's parity cases: this target with `--weights` and without.

    Logits are compared, and tokens counted, as long as both sides had read the same ones. Nothing is judged here.

    Args:
        root: the bundle.
        contract: what its bundle.json says, or will.
        label: of the engines with quantised weights.
    """
    entry = contract["engines"][label]
    title = f"{label} beside {entry['dtype']} weights"
    if reason := _not_run(contract, entry):
        return Table(title, COLUMNS, (("answers", "-", "not compared", "-"),), reason)
    plain = {name: part["files"][entry["dtype"]] for name, part in contract["parts"].items()}
    folder = root / "parity"
    cases, _ = parity.load(folder, entry["dtype"])
    sides = []
    for files in (plain, entry["files"]):  # one after the other: both need not fit into the memory
        backend = engine(entry["target"])
        session = Session(
            contract,
            {name: backend.load(root / file) for name, file in files.items()},
            Prompt.of(root, facts.parse(contract).geometry),
            entry["dtype"],
        )
        sides.append(parity.run(session, cases, folder))
    return Table(title, COLUMNS, tuple(_rows(*sides)), f"The bundle's {len(cases)} parity cases; told, not judged.")


def _not_run(contract: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Why there is nothing to compare; empty if there is."""
    if engine(entry["target"]).extension != ".onnx":
        return f"{entry['target']}: built, not run here; build ort-cpu with the same --weights to see what they change."
    if contract["recipe"].get("parity", "full") != "full":
        return "The bundle has no answers to compare with: export it with --parity full."
    return ""


def _rows(plain: Run, coded: Run) -> Iterator[Cells]:
    """The table's rows."""
    kept = [_shared(*pair) for pair in _selections(plain, coded)]
    if kept:
        yield _cells("kept tokens shared", kept, min(kept), "%")
    ends = [_same(a, b) for a, b in zip(plain.tokens, coded.tokens, strict=True)]
    steps = [(case, step) for case, end in enumerate(ends) for step in range(end)]
    pairs = [(plain.logits[step][case], coded.logits[step][case]) for case, step in steps]
    apart = [float(np.abs(a - b).max()) for a, b in pairs]
    yield _cells("logits, max |difference|", apart, max(apart))
    parts = [float(np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2))) for a, b in pairs]
    yield _cells("logits, rms difference / rms", [100 * each for each in parts], 100 * max(parts), "%")
    right = sum(plain.tokens[case][step] == coded.tokens[case][step] for case, step in steps)
    yield "next token equal", str(len(steps)), f"{right} of {len(steps)}", f"{100 * right / len(steps):.3g} %"


def _cells(what: str, values: list[float], worst: float, unit: str = "") -> Cells:
    shown = (f"{value:.3g} {unit}".strip() for value in (worst, float(np.mean(values))))
    return what, str(len(values)), *shown  # type: ignore[return-value]


def _selections(plain: Run, coded: Run) -> Iterator[tuple[Any, Any]]:
    """Every choice of tokens on both sides: before the decoder, and inside."""
    for case, indices in enumerate(plain.kept):
        yield indices, coded.kept[case]
        for name, inside in plain.cuts[case].items():
            yield inside, coded.cuts[case][name]


def _shared(plain: Any, coded: Any) -> float:
    """Per cent of the tokens kept on one side that the other keeps, too."""
    return 100.0 * float(np.isin(plain, coded).mean()) if plain.size else 100.0


def _same(plain: list[int], coded: list[int]) -> int:
    """Steps that both sides made after the same tokens."""
    first = next((i for i, (a, b) in enumerate(zip(plain, coded, strict=False)) if a != b), None)
    return min(len(plain), len(coded)) if first is None else first + 1
