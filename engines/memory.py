"""What a bundle's graphs take in memory when they are opened, and what there is."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engines.contract import Contract
from engines.errors import UserError
from engines.units import size

MEMINFO = Path("/proc/meminfo")
MARGIN = 1.1  # of what is needed must be free
CONVERTED = (".fp16", ".int8", ".int4")  # end the names of shards in other numbers
FLOAT = 4  # bytes of a float on a CPU, whatever the graph says


def check_fits(folder: Path, contract: Contract, what: str) -> None:
    """Asked before anything is loaded: do the graphs over the shards in `folder` fit, opened for speed?

    Raises:
        UserError: they do not, or a shard cannot be read.
    """
    free = available()
    if free is None:
        return
    need = sum(map(weights, shards(folder))) + cache(contract)
    if need * MARGIN > free:
        raise UserError(f"{what} takes about {size(need)} of memory, {size(free)} are free: run it with --memory low")


def available() -> int | None:
    """Bytes of memory that a process may still take; None where the system does not say."""
    if not MEMINFO.is_file():
        return None
    found = re.search(r"MemAvailable:\s*(\d+) kB", MEMINFO.read_text(encoding="ascii", errors="replace"))
    return int(found[1]) * 1024 if found else None


def shards(folder: Path) -> Iterable[Path]:
    """The checkpoint's own shards, not what was converted from them."""
    return (path for path in folder.glob("*.safetensors") if not path.stem.endswith(CONVERTED))


def weights(shard: Path) -> int:
    """Bytes of a shard's tensors, widened to fp32, and as they are stored: both are there while graphs are opened."""
    try:
        with safe_open(shard, "numpy") as file:
            shapes: list[list[int]] = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{shard} cannot be read: {error}; export the bundle again") from error
    return shard.stat().st_size + FLOAT * sum(math.prod(shape) for shape in shapes)


def cache(contract: Contract) -> int:
    """Bytes of one sequence's longest cache, as it goes into a step and as it comes out."""
    layers = sum(map(len, contract.groups))
    return 2 * 2 * layers * math.prod(contract.kv_shape) * contract.max_length * FLOAT
