"""What became of the graphs in a bundle's TensorRT plans: tables from what bundle.json says of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engines.errors import UserError
from engines.tables import Table
from engines.targets import engine_label
from engines.units import size

Json = Mapping[str, Any]
PARTS = ("part", "attention fused", "kernels", "layers", "fp32", "copies", "waits", "size")
NOTE = (
    "One row a part; where its shape ranges differ, prompts first, then single tokens. Kernels: layers that run on the "
    "GPU. fp32: of these, those that make or read fp32. Copies only move data. Waits: times that the host waits for a "
    "shape in the middle of an inference."
)
PURPOSES = {
    "selection": "which tokens stay",
    "norm": "norms",
    "tables": "positions and masks",
    "values": "other values that the graph wants so",
    "fell": "not asked for",
}
SHOWN = 6  # names of nodes in a row


def engine_tables(bundle: Json, label: str = "") -> list[Table]:
    """The fusion report of one engine, or of all that have one.

    Args:
        bundle: the content of bundle.json.
        label: of the engine, as for `engine_label`; empty: all.

    Raises:
        UserError: there is no such engine, or no list of its layers.
    """
    known: Json = bundle["engines"]
    named = [engine_label(bundle, label)] if label else [name for name, entry in known.items() if entry.get("layers")]
    if not named:
        raise UserError(f"the bundle has no TensorRT engines; it has {', '.join(known)}")
    if not known.get(named[0], {}).get("layers"):
        raise UserError(f"there is no list of the layers of the engines for {named[0]}: only TensorRT plans have one")
    return [table for name in named for table in _tables(name, known[name])]


def fused_in_words(report: Json) -> str:
    """Attention layers that became one kernel, by its kind, such as "4 of 4 gemm" or "8 of 8: 3 gemm, 5 gemv"."""
    return _fused(report, report["profiles"])


def _tables(label: str, entry: Json) -> list[Table]:
    reports: Json = entry["fusion"]
    rows = tuple(_part(name, report) for name, report in reports.items())
    where = f"All layers are listed in {', '.join(entry['layers'].values())}."
    whole = Table(f"Engines for {label}, {entry['dtype']}", PARTS, rows, f"{NOTE} {where}")
    details = [_unfused(label, reports), _fp32(label, reports), _waits(label, reports)]
    return [whole, *(table for table in details if table.rows)]


def _part(name: str, report: Json) -> tuple[str, ...]:
    def each(told: Callable[[Json], object]) -> str:
        return " / ".join(dict.fromkeys(str(told(profile)) for profile in report["profiles"])) or "-"

    return (
        name,
        each(lambda profile: _fused(report, [profile])),
        each(lambda profile: profile["kernels"]),
        each(lambda profile: profile["layers"]),
        each(lambda profile: len(profile["fp32"])) if report["dtype"] == "16 bits" else "all",
        each(lambda profile: profile["copies"]),
        each(lambda profile: len(profile["host_copies"])),
        size(report["bytes"]),
    )


def _fused(report: Json, profiles: Sequence[Json]) -> str:
    counts = Counter[str]()
    for profile in profiles:
        counts.update({name.strip("_").split("_")[0]: count for name, count in profile["fused"].items()})
    all_of_them = report["attention"] * len(profiles)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    if not all_of_them:
        return "-"
    if len(counts) > 1:
        return f"{counts.total()} of {all_of_them}: {kinds}"
    return f"{counts.total()} of {all_of_them} {''.join(counts)}".rstrip()


def _unfused(label: str, reports: Json) -> Table:
    rows = {
        (part, left["node"], left["why"]): None
        for part, report in reports.items()
        for profile in report["profiles"]
        for left in profile["unfused"]
    }
    note = "Products and softmax apart: the whole matrix of probabilities goes through memory."
    return Table(f"Attention that is not one kernel, {label}", ("part", "node", "why"), tuple(rows), note)


def _fp32(label: str, reports: Json) -> Table:
    """What was not asked for layer by layer, all else by purpose."""
    rows: list[tuple[str, ...]] = []
    for part, report in reports.items():
        found = {one["layer"]: one for profile in report["profiles"] for one in profile["fp32"]}.values()
        for purpose, words in PURPOSES.items():
            group = [one for one in found if one["purpose"] == purpose]
            if purpose == "fell":
                rows += [(part, words, one["layer"], _names(one["nodes"])) for one in group]
            elif group:
                nodes = dict.fromkeys(node for one in group for node in one["nodes"])
                rows.append((part, words, f"{len(group)} layers", _names(nodes)))
    return Table(f"fp32 in 16 bits, {label}", ("part", "for", "layer", "ONNX nodes"), tuple(rows))


def _waits(label: str, reports: Json) -> Table:
    rows = {
        (part, name): None
        for part, report in reports.items()
        for profile in report["profiles"]
        for name in profile["host_copies"]
    }
    note = "The host reads a shape from the GPU before it can go on: no CUDA graph can hold that."
    return Table(f"Waits for the host, {label}", ("part", "layer"), tuple(rows), note)


def _names(nodes: Iterable[str]) -> str:
    names = list(nodes)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "-") + more
