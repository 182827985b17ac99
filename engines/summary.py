"""What an export shows at its end and in its report: tables from bundle.json, parity.json and ceilings."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from engines.ceiling import OUTPUTS, Ceiling, ceiling, ridge
from engines.flops import Geometry
from engines.tables import Table
from engines.units import amount, milliseconds, size, times

Json = Mapping[str, Any]
PARITY = ("level", "dtype", "engine", "what", "value", "threshold", "verdict")
TEXT = 40  # words around the picture in the cost tables
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
    tables = [costs(bundle, limit), engines(bundle), parity_table(parity)]
    measured = [speed_table(parity["speed"])] if parity.get("speed") else []
    return [*tables, *measured, ceiling_table(limit)]


def ceiling_of(bundle: Json) -> Ceiling:
    """The most that a bundle's budget can give on the GPU that its recipe names, with forty words of text."""
    geometry = Geometry(**bundle["geometry"])
    return ceiling(geometry, bundle["pictures"][0]["patches"], _kept(bundle), TEXT, bundle["recipe"]["gpu"])


def costs(bundle: Json, limit: Ceiling) -> Table:
    """Tokens, FLOPs and cache, before and after."""
    patches, kept = bundle["pictures"][0]["patches"], fmean(_kept(bundle))
    before, after = limit.before, limit.after
    both = [side.llm_flops + side.vision_flops for side in (before, after)]
    cache = (size(before.kv_bytes), size(after.kv_bytes), times(before.kv_bytes / after.kv_bytes))
    rows = [
        ("tokens per image in the decoder", str(patches), f"{kept:g}", times(patches / kept) if kept else "-"),
        _change("decoder prefill", before.llm_flops, after.llm_flops),
        _change("vision and prefill", *both),
        ("key-value cache", *cache),
    ]
    nodes = ", ".join(f"{name} {part['traced_nodes']} -> {part['nodes']}" for name, part in bundle["parts"].items())
    note = f"Graph nodes, traced -> published: {nodes}."
    return Table("Before and after", ("one prompt", "before", "after", "ratio"), tuple(rows), note)


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


def _kept(bundle: Json) -> list[int]:
    """Rows of one picture of the first form in the cache, layer by layer; a group counts for the largest form."""
    tokens = bundle["pictures"][0]["tokens"]
    return [min(tokens, group["tokens"]) for group in bundle["groups"] for _ in range(*group["layers"])]


def _change(name: str, before: float, after: float) -> tuple[str, str, str, str]:
    return name, amount(before, "FLOP"), amount(after, "FLOP"), times(before / after)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
