"""Measured figures as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def told(found: Found) -> str:
    """The table of a measurement of any kind."""
    return TABLES[found["kind"]](found)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def speed(found: Found) -> str:
    """One table a batch: milliseconds to the first token, the ratio with its spread, achieved of what is possible."""
    batches = dict.fromkeys(line["batch"] for line in found["lines"])
    pieces = [piece for batch in batches for piece in _batch(found, batch)]
    pieces += [f"{name}: {reason}" for name, reason in found["missing"].items()]
    pieces += [_ceiling(batch, top) for batch, top in found.get("ceiling", {}).items()]
    return "\n\n".join([*pieces, _machine(found)])


def _ceiling(batch: str, top: Found) -> str:
    gains = ", ".join(f"{what} x{top[what]:.2f}" for what in ("prefill", "first token", "64 tokens"))
    return f"Ceiling of {top['gpu']} at batch {batch}: {gains} (FLOPs of the decoder x{top['flop_ratio']:.2f})."


def _batch(found: Found, batch: int) -> Iterator[str]:
    lines = {(line["peer"], line["side"]): line for line in found["lines"] if line["batch"] == batch}
    ratios = {(r["slow"], r["fast"]): r["stages"] for r in found["ratios"] if r["batch"] == batch}
    rows = []
    for who in dict.fromkeys(who for who, _ in lines):
        dense, pruned = (lines.get((who, side)) for side in ("dense", "pruned"))
        own = ratios.get((f"{who} dense", f"{who} pruned"))
        ours = next(
            (stages for (slow, fast), stages in ratios.items() if slow == f"{who} pruned" and fast != slow), None
        )
        title = (dense or pruned or {})["title"]
        gain = _gains(own) if own else ["", ""]
        rows.append([title, _ms(dense), _ms(pruned), *gain, _times(ours["first token"]) if ours else ""])
    head = [f"first token, batch {batch}", "dense, ms", "pruned, ms", "gain", "of possible", "pruned beside ours"]
    yield table(head, rows)


def _gains(stages: Found) -> list[str]:
    first = stages["first token"]
    achieved = f"{first['achieved']:.0%} of x{first['possible']:.2f}" if "achieved" in first else ""
    return [_times(first), achieved]


def _times(ratio: Found) -> str:
    return f"x{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def _ms(line: Found | None) -> str:
    """First token, and of it vision and prefill."""
    if line is None:
        return ""
    first, vision, prefill = (1e3 * line["seconds"][key]["median"] for key in ("first token", "vision", "prefill"))
    return f"{first:.0f} ({vision:.0f} + {prefill:.0f})"


def _machine(found: Found) -> str:
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"`{found['command']}` on {machine['cpus']} CPUs ({machine['cpu']}); {versions}."


def selection(found: Found) -> str:
    """Share of the tower by method and budget."""
    counts = found["keeps"]
    rows = []
    for name, by_keep in found["methods"].items():
        cells = [by_keep.get(str(keep)) for keep in counts]
        rows.append([name, *("" if cell is None else _share(cell) for cell in cells)])
    head = [f"`{found['model']}`, kept of {found['patches']}", *(str(keep) for keep in counts)]
    missing = [f"{name}: {reason}" for name, reason in found["missing"].items()]
    return "\n\n".join([table(head, rows), *missing, _machine(found)])


def _share(cell: Found) -> str:
    time = cell["share"]
    return f"{time['median']:.2%} ({time['min']:.2%} to {time['max']:.2%}), {cell['flops_share']:.2%} of FLOPs"


TABLES: dict[str, Callable[[Found], str]] = {"speed": speed, "selection": selection, "gpu": speed}
