"""One ONNX graph to one TensorRT-RTX plan, in this process; run it in a child, because builders crash."""

import mmap
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from engines.errors import UserError
from engines.registry import Profile

Native = Any  # tensorrt_rtx has no types

# A fused attention layer leaves its kernel's bare name in the plan once for each profile, whatever the number
# of GPUs built for; every other occurrence is part of a longer symbol (_gemm_mha_v2_params_t …).
# gemm is the kernel for many queries, gemv the one for a single query.
FUSED = re.compile(rb"(_gem[mv]_mha_v\d+)(?!\w)")


def build_plan(onnx: str, out: str, profiles: Sequence[Profile], gpus: Sequence[str]) -> dict[str, Any]:
    """Parses, builds and writes one plan.

    Args:
        onnx: path of the graph, with its external data beside it.
        out: path of the plan; appears only when it is complete.
        profiles: shape ranges.
        gpus: generations such as "sm89"; none for a plan that is portable over Ampere and later.

    Returns:
        "seconds" and "fused_attention" (see there).

    Raises:
        UserError: the first complaint of the parser or the builder.
    """
    import tensorrt_rtx as trt

    start = time.perf_counter()
    logger = _listener(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(onnx):
        raise UserError(_complaint(parser.get_error(0)))
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(gpus)
    for index, gpu in enumerate(gpus):
        config.set_compute_capability(trt.ComputeCapability.__members__[gpu.upper()], index)
    _add_profiles(builder, network, config, profiles)
    _write(trt, builder, network, config, Path(out))
    return {"seconds": time.perf_counter() - start, "fused_attention": fused_attention(Path(out))}


def fused_attention(plan: Path) -> dict[str, int]:
    """Attention layers of a plan that became one fused kernel each, by kernel name, summed over profiles."""
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return dict(Counter(match[1].decode() for match in FUSED.finditer(data)))


def _listener(trt: Native) -> Native:
    """A logger that prints all but the chatter and keeps the first error as `first`."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        first = ""

        def log(self, severity: Native, message: str) -> None:
            if severity != trt.ILogger.VERBOSE:
                print(f"{severity.name} {message}", flush=True)  # noqa: T201 - stdout is the log file
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.first = self.first or " ".join(message.split())[:400]

    return Listener()


def _complaint(error: Native) -> str:
    """One parser error in one line."""
    where = f"{error.node_operator() or 'the file'} {error.node_name()}".strip()
    return f"the ONNX parser refuses {where}: {' '.join(error.desc().split())[:400]}"


def _add_profiles(builder: Native, network: Native, config: Native, profiles: Sequence[Profile]) -> None:
    """Adds shape ranges; each must name every dynamic input, and inputs only (the builder would not say)."""
    inputs = {t.name: -1 in t.shape for t in (network.get_input(i) for i in range(network.num_inputs))}
    for profile in profiles:
        missing = {key for key, dynamic in inputs.items() if dynamic} - profile.keys()
        if odd := missing | (profile.keys() - inputs.keys()):
            raise UserError(f"profile and graph disagree about the inputs {', '.join(sorted(odd))}")
        shapes = builder.create_optimization_profile()
        for key, (low, usual, high) in profile.items():
            shapes.set_shape(key, low, usual, high)
        config.add_optimization_profile(shapes)


def _write(trt: Native, builder: Native, network: Native, config: Native, out: Path) -> None:
    """Builds into a file beside out, then gives it its name."""
    partial = out.with_name(f"{out.name}.{os.getpid()}")
    try:
        with partial.open("xb") as file:
            _serialise(trt, builder, network, config, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _serialise(trt: Native, builder: Native, network: Native, config: Native, file: IO[bytes]) -> None:
    """Builds straight into a file: the plan is never in memory as a whole."""
    failures: list[OSError] = []

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:  # must not unwind through the builder's frames
                failures.append(error)
                return 0

    done = builder.build_serialized_network_to_stream(network, config, Writer())
    if failures:
        raise failures[0]
    if not done:
        raise UserError(builder.logger.first or "the builder gave up without a word")
