"""One ONNX graph to one plan, in this process; run it in a child, because builders crash."""

import mmap
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.messages import tell
from engines.registry import Profile
from engines.settings import Settings
from engines.trt import timing
from engines.trt.config import add_profiles, configured, create_network
from engines.trt.fusion import report
from engines.trt.gpu import gpu
from engines.trt.listing import list_layers
from engines.trt.native import FULL, Native, listener, native
from engines.trt.parse import parse
from engines.trt.progress import monitor
from engines.trt.write import build_into, write

# A fused attention layer leaves its kernel's bare name in the plan once for each profile, whatever the number
# of GPUs built for; every other occurrence is part of a longer symbol (_gemm_mha_v2_params_t …).
# gemm is the kernel for many queries, gemv the one for a single query.
FUSED = re.compile(rb"(_gem[mv]_mha_v\d+)(?!\w)")


def build_plan(
    module: str,
    onnx: str,
    out: str,
    profiles: Sequence[Profile],
    options: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Parses, builds and writes one plan; stdout becomes the builder's log, which ends with the plan's layers.

    Args:
        module: "tensorrt" or "tensorrt_rtx".
        onnx: path of the graph, with its external data beside it.
        out: path of the plan; appears only when it is complete; its layers are listed beside it.
        profiles: shape ranges.
        options: GPU generations such as "sm89", for TensorRT-RTX alone; none for its portable set.
        settings: `Settings.chosen()`.

    Returns:
        "seconds", "fused_attention" (see there) and "fusion" (see `engines.trt.fusion.report`).

    Raises:
        UserError: the first complaint of the parser or the builder, or the plan cannot be written.
    """
    trt, start, wishes = native(module), time.perf_counter(), Settings(**settings)
    builder = trt.Builder(listener(trt, aloud=True))
    network = create_network(trt, builder)
    parser = parse(trt, network, onnx, wishes.plugin)
    config = configured(trt, builder, wishes, options)
    add_profiles(builder, network, config, profiles)
    progress = config.progress_monitor = monitor(trt, tell)
    with _timed(trt, config):
        write(Path(out), lambda file: build_into(trt, builder, network, config, file))
    seconds = time.perf_counter() - start
    del parser, progress  # which had to outlive the build
    listed = list_layers(trt, builder.logger, Path(out))
    found = {"fused_attention": fused_attention(Path(out)), "fusion": report(listed, Path(out), Path(onnx))}
    return {"seconds": seconds, **found}


def fused_attention(plan: Path) -> dict[str, int]:
    """Attention layers of a plan that became one fused kernel each, by kernel name, summed over profiles."""
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return dict(Counter(match[1].decode() for match in FUSED.finditer(data)))


@contextmanager
def _timed(trt: Native, config: Native) -> Iterator[None]:
    """Full TensorRT with what it measured on this GPU before; RTX measures where the plan runs."""
    here = gpu() if trt.__name__ == FULL else None
    if here:
        timing.attach(config, timing.place(trt, here))
    yield
    if here:
        timing.keep(config, timing.place(trt, here))
