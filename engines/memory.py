"""What a bundle's graphs take in memory when they are opened, and what there is."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from engines.contract import Contract
from engines.errors import UserError
from engines.units import size

MEMINFO = Path("/proc/meminfo")
MARGIN = 1.1  # of what is needed must be free
FLOAT = 4  # bytes of a float on a CPU, whatever the graph says


def check_fits(graphs: Iterable[Path], contract: Contract, what: str) -> None:
    """Asked before anything is loaded: do these graphs fit, opened for speed?

    Raises:
        UserError: they do not, or a graph cannot be read.
    """
    free = available()
    if free is None:
        return
    need = sum(map(weights, graphs)) + cache(contract)
    if need * MARGIN > free:
        raise UserError(f"{what} takes about {size(need)} of memory, {size(free)} are free: run it with --memory low")


def available() -> int | None:
    """Bytes of memory that a process may still take; None where the system does not say."""
    if not MEMINFO.is_file():
        return None
    found = re.search(r"MemAvailable:\s*(\d+) kB", MEMINFO.read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else None


def weights(graph: Path) -> int:
    """Bytes of a graph's weights, widened to fp32, and as they are stored: both are there while it is opened."""
    import onnx_ir as ir
    from google.protobuf.message import DecodeError

    try:
        model = ir.load(graph)
    except (DecodeError, OSError) as error:
        raise UserError(f"{graph} cannot be read: {error}; export the bundle again") from error
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return sum(t.nbytes + (FLOAT * t.size if t.dtype.is_floating_point() else t.nbytes) for t in tensors)


def cache(contract: Contract) -> int:
    """Bytes of one sequence's longest cache, as it goes into a step and as it comes out."""
    layers = sum(map(len, contract.groups))
    return 2 * 2 * layers * math.prod(contract.kv_shape) * contract.max_length * FLOAT
