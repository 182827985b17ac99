"""What an export shows at its end and in its report: tables from bundle.json, parity.json and ceilings."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from engines.ceiling import Ceiling
from engines.ceilings import FLOATS, ceiling_table, ceilings_of
from engines.flops import kv_bytes
from engines.fusion_tables import fused_in_words
from engines.load import PAPER_TEXT, TEXT, Load
from engines.tables import Table
from engines.units import amount, size, times

Json = Mapping[str, Any]
LAYERS = ("layers", "rows, dense", "rows", "cache slots", "cache of one layer")
PARITY = ("level", "dtype", "engine", "what", "value", "threshold", "verdict")
SPEED = "ONNX Runtime, CPU, fp32, batch 1; both sides alternate in one run; median of the rounds."


def summary(bundle: Json, parity: Json) -> list[Table]:
    """Make the tables of a finished export.

    Args:
        bundle: The content of bundle.json.
        parity: The content of parity.json: its "rows" have the keys PARITY, "speed" those of `engines.measure.Pair`.
    """
    limits = ceilings_of(bundle)
    by_layer = [layer_table(bundle)] if bundle["prefill"] else []
    tables = [costs(bundle, limits[FLOATS]), *by_layer, engines(bundle), parity_table(parity)]
    measured = [speed_table(parity["speed"])] if parity.get("speed") else []
    return [*tables, *measured, ceiling_table(limits)]


def costs(bundle: Json, limit: Ceiling) -> Table:
    """Tokens, FLOPs and cache, before and after."""
    load = Load.of(bundle)
    patches, kept = load.dense, fmean(load.ran)
    before, after = limit.before, limit.after
    both = [side.llm_flops + side.vision_flops for side in (before, after)]
    cache = (size(before.kv_bytes), size(after.kv_bytes), times(before.kv_bytes / after.kv_bytes))
    reads = (size(before.decode_bytes), size(after.decode_bytes), times(before.decode_bytes / after.decode_bytes))
    whose = "tokens of the prompt" if load.whole else "tokens per image"
    rows = [
        (f"{whose}, mean of all layers", str(patches), f"{kept:g}", times(patches / kept) if kept else "-"),
        _change("decoder prefill", before.llm_flops, after.llm_flops),
        ("its layers, as papers count them", "100 %", f"{100 * load.share:.1f} %", times(1 / load.share)),
        _change("vision and prefill", *both),
        ("key-value cache", *cache),
        ("read for one decoded token", *reads),
    ]
    nodes = ", ".join(f"{name} {part['traced_nodes']} -> {part['nodes']}" for name, part in bundle["parts"].items())
    note = f"Graph nodes, traced -> published: {nodes}. Papers count 4nd^2 + 2n^2 d + 3ndm a layer"
    note += "." if load.whole else f", here with {PAPER_TEXT} words around one picture, elsewhere {TEXT}."
    return Table("Before and after", ("one prompt", "before", "after", "ratio"), tuple(rows), note)


def layer_table(bundle: Json) -> Table:
    """Rows that each run of layers computes and caches, with forty words around one picture."""
    load = Load.of(bundle)
    edges = [i for i in range(1, len(load.ran)) if load.layer(i) != load.layer(i - 1)]
    rows = []
    for first, end in pairwise([0, *edges, len(load.ran)]):
        ran, cached = load.layer(first)
        each = size(kv_bytes(load.geometry, [cached]))
        named = str(first) if end - first == 1 else f"{first} to {end - 1}"
        rows.append((named, str(load.dense + load.text), str(ran), str(cached), each))
    total = size(kv_bytes(load.geometry, load.cached))
    return Table("Decoder, layer by layer", LAYERS, tuple(rows), f"All caches of one prompt: {total}, in fp16.")


def engines(bundle: Json, labels: Collection[str] = ()) -> Table:
    """Every part of every engine, or of those with these labels."""
    rows = []
    shown = {label: entry for label, entry in bundle["engines"].items() if not labels or label in labels}
    for target, engine in shown.items():
        for part, file in engine["files"].items():
            built, fusion = engine.get("build_s", {}).get(part), engine.get("fusion", {}).get(part)
            rows.append((
                target, part, engine["dtype"], size(bundle["files"][file]["bytes"]),
                "-" if built is None else f"{built:.1f} s", "-" if fusion is None else fused_in_words(fusion),
            ))  # fmt: skip
    columns = ("target", "part", "dtype", "size", "build", "fused attention")
    note = (
        "ONNX parts read their weights from the shards beside them. Fused attention: layers that became one kernel in "
        "each range of shapes, gemm for many queries, gemv for one; `tp-export inspect --engine` says more."
    )
    if unrun := [target for target in shown if target.startswith("trt")]:
        note += f" {', '.join(unrun)}: built here, not run: that takes an NVIDIA GPU."
    return Table("Engines", columns, tuple(rows), note)


def parity_table(parity: Json) -> Table:
    """Every comparison with PyTorch, with its threshold and verdict."""
    rows = tuple(tuple(_cell(row[key]) for key in PARITY) for row in parity["rows"])
    return Table("Parity with PyTorch", PARITY, rows, f"Verdict: {parity['verdict']}.")


def speed_table(pairs: Sequence[Json]) -> Table:
    """Dense and pruned engines, timed side by side."""
    rows = tuple(
        (
            pair["what"],
            f"{pair['dense_s'] * 1e3:.1f} ms",
            f"{pair['pruned_s'] * 1e3:.1f} ms",
            times(pair["ratio"]),
            f"{times(pair['least'])} to {times(pair['most'])}",
        )
        for pair in pairs
    )
    columns = ("on the exporting machine", "dense", "pruned", "ratio", "spread")
    return Table("Measured", columns, rows, SPEED)


def details(bundle: Json) -> list[Table]:
    """For the report only: what goes into each part and comes out, and the versions that made the bundle."""
    rows = tuple(
        (part, way, tensor["name"], tensor["dtype"], " x ".join(map(str, tensor["shape"])), tensor["meaning"])
        for part, spec in bundle["parts"].items()
        for way, tensors in (("in", spec["inputs"]), ("out", spec["outputs"]))
        for tensor in tensors
    )
    contract = Table("Inputs and outputs", ("part", "", "name", "dtype", "shape", "meaning"), rows)
    made = (("tp-export", bundle["tp_export"]), *bundle["versions"].items())
    return [contract, Table("Versions", ("package", "version"), tuple((k, str(v)) for k, v in made))]


def _change(name: str, before: float, after: float) -> tuple[str, str, str, str]:
    return name, amount(before, "FLOP"), amount(after, "FLOP"), times(before / after)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
