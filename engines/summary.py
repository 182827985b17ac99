"""What an export shows at its end and in its report: tables from bundle.json, parity.json and ceilings."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from engines.ceiling import OUTPUTS, Ceiling, ceiling, ridge
from engines.flops import kv_bytes
from engines.load import PAPER_TEXT, TEXT, Load
from engines.tables import Table
from engines.units import amount, milliseconds, size, times

Json = Mapping[str, Any]
LAYERS = ("layers", "rows, dense", "rows", "cache slots", "cache of one layer")
PARITY = ("level", "dtype", "engine", "what", "value", "threshold", "verdict")
SPEED = "ONNX Runtime, CPU, fp32, batch 1; both sides alternate in one run; median of the rounds."
ROOFLINE = (
    "The longer of computing and reading, both sides: a limit, not a forecast. Below the ridge (tokens in "
    "the whole batch) prefill waits for the weights, and fewer tokens save no more time."
)


def summary(bundle: Json, parity: Json) -> list[Table]:
    """Make the tables of a finished export.

    Args:
        bundle: The content of bundle.json.
        parity: The content of parity.json: its "rows" have the keys PARITY, "speed" those of `engines.measure.Pair`.
    """
    limit = ceiling_of(bundle)
    by_layer = [layer_table(bundle)] if bundle["prefill"] else []
    tables = [costs(bundle, limit), *by_layer, engines(bundle), parity_table(parity)]
    measured = [speed_table(parity["speed"])] if parity.get("speed") else []
    return [*tables, *measured, ceiling_table(limit)]


def ceiling_of(bundle: Json) -> Ceiling:
    """The most that a bundle's budget can give on the GPU that its recipe names, with forty words of text."""
    load = Load.of(bundle)
    return ceiling(load.geometry, load.dense, load.ran, load.text, bundle["recipe"]["gpu"], cached=load.cached)


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


def engines(bundle: Json) -> Table:
    """Every part of every engine."""
    rows = []
    for target, engine in bundle["engines"].items():
        for part, file in engine["files"].items():
            built, fused = engine.get("build_s", {}).get(part), engine.get("fused_attention", {}).get(part)
            rows.append((
                target, part, engine["dtype"], size(bundle["files"][file]["bytes"]),
                "-" if built is None else f"{built:.1f} s", "-" if fused is None else _kernels(fused),
            ))  # fmt: skip
    columns = ("target", "part", "dtype", "size", "build", "fused attention")
    note = (
        "ONNX parts read their weights from the shards beside them. Fused attention: layers that became one kernel, "
        "gemm for prompts, gemv for single tokens."
    )
    if unrun := [target for target in bundle["engines"] if target.startswith("trt")]:
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


def ceiling_table(limit: Ceiling) -> Table:
    """The most that this budget can give on one GPU."""
    gpu, answers = limit.gpu, OUTPUTS[1:]
    columns = ("GPU", "batch", "ridge", "dense", "pruned", "prefill", "1 token", *(f"{n} tokens" for n in answers))
    row = (
        gpu.name,
        str(limit.batch),
        f"{ridge(gpu, limit.weight_bytes):.0f}",
        milliseconds(limit.before.prefill_s),
        milliseconds(limit.after.prefill_s),
        times(limit.prefill_speedup),
        times(limit.ttft_speedup),
        *(times(limit.total_speedup(n)) for n in answers),
    )
    peaks = f"{gpu.name} {gpu.tflops:g} TFLOP/s, {gpu.gbps:g} GB/s ({gpu.source})"
    return Table("Ceiling", columns, (row,), f"{ROOFLINE} Peaks: {peaks}.")


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


def _kernels(fused: Mapping[str, int]) -> str:
    """Fused kernels by kind: `_gemm_mha_v2` serves many queries, `_gemv_mha_v1` one."""
    return ", ".join(f"{count} {name.split('_')[1]}" for name, count in sorted(fused.items())) or "-"


def _change(name: str, before: float, after: float) -> tuple[str, str, str, str]:
    return name, amount(before, "FLOP"), amount(after, "FLOP"), times(before / after)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
