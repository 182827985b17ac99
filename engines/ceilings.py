"""The ceiling of a bundle as a table: what its budget can give at most, and what fewer bits of weights would allow."""

from collections.abc import Mapping
from typing import Any

from engines.ceiling import OUTPUTS, Ceiling, ceiling, coded_bytes, ridge
from engines.load import Load
from engines.tables import Table
from engines.units import milliseconds, times

FLOATS = "16-bit"  # precision of the decoder's weights
WORTH = 1.05  # times as much must be possible for a row of its own
ROOFLINE = (
    "The longer of computing and reading, both sides: a limit, not a forecast. Below the ridge (tokens in "
    "the whole batch) prefill waits for the weights, and fewer tokens save no more time."
)


def ceilings_of(bundle: Mapping[str, Any]) -> dict[str, Ceiling]:
    """The most that a bundle's budget can give on the GPU that its recipe names, with forty words of text.

    For weights of 16 bits, and for those of fewer bits (`--weights`) that allow more.
    """
    load, gpu = Load.of(bundle), bundle["recipe"]["gpu"]
    sizes = load.geometry, load.dense, load.ran, load.text, gpu
    most = ceiling(*sizes, cached=load.cached)
    found = {FLOATS: most}
    for bits in (8, 4):
        limit = ceiling(*sizes, weight_bytes=coded_bytes(load.geometry, bits), cached=load.cached)
        if limit.prefill_speedup > WORTH * most.prefill_speedup:
            most = found[f"int{bits}"] = limit
    return found


def ceiling_table(limits: Mapping[str, Ceiling]) -> Table:
    """The most that this budget can give on one GPU, by the precision of the decoder's weights."""
    answers = OUTPUTS[1:]
    most = limits[FLOATS]
    gpu, sides = most.gpu, (f"{most.gpu.name}, batch {most.batch}", "ridge", "dense", "pruned", "prefill")
    rows = tuple(
        (
            f"{weights} weights",
            f"{ridge(gpu, limit.weight_bytes):.0f}",
            milliseconds(limit.before.prefill_s),
            milliseconds(limit.after.prefill_s),
            times(limit.prefill_speedup),
            times(limit.ttft_speedup),
            *(times(limit.total_speedup(n)) for n in answers),
        )
        for weights, limit in limits.items()
    )
    peaks = f"{gpu.name} {gpu.tflops:g} TFLOP/s, {gpu.gbps:g} GB/s ({gpu.source})"
    columns = (*sides, "1 token", *(f"{n} tokens" for n in answers))
    return Table("Ceiling", columns, rows, f"{ROOFLINE}{_lifted(limits)} Peaks: {peaks}.")


def _lifted(limits: Mapping[str, Ceiling]) -> str:
    """What fewer bits would change, if anything."""
    *_, (weights, best) = limits.items()
    if weights == FLOATS:
        return ""
    most = [times(limit.prefill_speedup) for limit in (limits[FLOATS], best)]
    return f" Fewer bits lower it: tp-export build --weights {weights} lifts the most from {most[0]} to {most[1]}."
