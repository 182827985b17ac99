"""What an export shows at its end and in its report: tables from bundle.json, parity.json and ceilings."""

from collections.abc import Mapping, Sequence
from typing import Any

from engines.ceiling import OUTPUTS, Ceiling, ridge
from engines.tables import Table
from engines.units import amount, milliseconds, size, times

Json = Mapping[str, Any]
PARITY = ("level", "dtype", "engine", "what", "value", "threshold", "verdict")
ROOFLINE = (
    "The longer of computing and reading, both sides: a limit, not a forecast. Below the ridge (tokens in "
    "the whole batch) prefill waits for the weights, and fewer tokens save no more time."
)


def summary(bundle: Json, parity: Json, ceilings: Sequence[Ceiling]) -> list[Table]:
    """Make the tables of a finished export.

    Args:
        bundle: The content of bundle.json.
        parity: The content of parity.json: its "rows" have the keys PARITY.
        ceilings: One for each GPU of interest, all of the same model and budget; may be empty.
    """
    tables = [costs(bundle, ceilings), engines(bundle), parity_table(parity)]
    return tables + ([ceiling_table(ceilings)] if ceilings else [])


def costs(bundle: Json, ceilings: Sequence[Ceiling]) -> Table:
    """Tokens, FLOPs and cache, before and after; the costs come from the first ceiling."""
    patches, kept = bundle["tokens"]["patches"], _mean_tokens(bundle["groups"])
    rows = [("tokens per image in the decoder", str(patches), f"{kept:g}", times(patches / kept))]
    if ceilings:
        limit = ceilings[0]
        before, after = limit.before, limit.after
        both = [side.llm_flops + side.vision_flops for side in (before, after)]
        rows += [
            _change("decoder prefill", before.llm_flops, after.llm_flops),
            _change("vision and prefill", *both),
            (
                "key-value cache",
                size(before.kv_bytes),
                size(after.kv_bytes),
                times(before.kv_bytes / after.kv_bytes),
            ),
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
    note = "ONNX parts read their weights from the shards beside them."
    if unrun := [target for target in bundle["engines"] if target.startswith("trt")]:
        note += f" {', '.join(unrun)}: built here, not run: that takes an NVIDIA GPU."
    return Table("Engines", columns, tuple(rows), note)


def parity_table(parity: Json) -> Table:
    """Every comparison with PyTorch, with its threshold and verdict."""
    rows = tuple(tuple(_cell(row[key]) for key in PARITY) for row in parity["rows"])
    return Table("Parity with PyTorch", PARITY, rows, f"Verdict: {parity['verdict']}.")


def ceiling_table(ceilings: Sequence[Ceiling]) -> Table:
    """The most that this budget can give, GPU by GPU."""
    answers = [f"answer of {n}" for n in OUTPUTS[1:]]
    columns = ("GPU", "batch", "ridge", "unpruned", "pruned", "prefill", "first token", *answers)
    rows = tuple(
        (
            limit.gpu.name,
            str(limit.batch),
            f"{ridge(limit.gpu, limit.weight_bytes):.0f}",
            milliseconds(limit.before.prefill_s),
            milliseconds(limit.after.prefill_s),
            times(limit.prefill_speedup),
            times(limit.ttft_speedup),
            *(times(limit.total_speedup(n)) for n in OUTPUTS[1:]),
        )
        for limit in ceilings
    )
    chips = [limit.gpu for limit in ceilings]
    peaks = "; ".join(f"{gpu.name} {gpu.tflops:g} TFLOP/s, {gpu.gbps:g} GB/s ({gpu.source})" for gpu in chips)
    return Table("Ceiling", columns, rows, f"{ROOFLINE} Peaks: {peaks}.")


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


def _mean_tokens(groups: Sequence[Json]) -> float:
    """Rows of one image in the cache, mean over the decoder's layers."""
    layers = [group["layers"][1] - group["layers"][0] for group in groups]
    tokens = sum(n * group["tokens"] for n, group in zip(layers, groups, strict=True))
    return float(tokens / sum(layers))


def _change(name: str, before: float, after: float) -> tuple[str, str, str, str]:
    return name, amount(before, "FLOP"), amount(after, "FLOP"), times(before / after)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
