"""ONNX Runtime on the CPU: the .onnx file is the engine."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from engines.feeds import check_feeds
from engines.graph_engine import cpus, proved, refuse_options
from engines.registry import Arrays, BuildJob, BuildResult, Dtype, Runner

name = "ort-cpu"
extension = ".onnx"
install = "pip install 'tp-export[runtime]'"

Native = Any  # onnxruntime has no types
NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def available() -> str | None:
    """None if onnxruntime is installed."""
    return None if find_spec("onnxruntime") else "onnxruntime is not installed"


def version() -> str:
    """ONNX Runtime's version."""
    import onnxruntime

    return str(onnxruntime.__version__)


def dtype(checkpoint: Dtype) -> Dtype:  # noqa: ARG001 - the contract of every backend
    """Always fp32: the CPU kernels are, and index parity is proven in it."""
    return "fp32"


def check(options: tuple[str, ...]) -> None:
    """Raises UserError: this target has no options."""
    refuse_options(name, options)


def build(job: BuildJob) -> BuildResult:
    """Proves in a child process that the graph loads; the engine is the .onnx file itself."""
    return proved(job, f"{__name__}:build_here", f"loading '{job.part}' in {name}")


def build_here(onnx: str, *, light: bool = False) -> dict[str, Any]:
    """Loads the graph; runs in the child. A light load optimises nothing, and so leaves the weights on the disk."""
    start = time.perf_counter()
    _session(Path(onnx), low=light)
    return {"seconds": time.perf_counter() - start}


def load(path: Path, *, low: bool = False) -> Runner:
    """The graph as a function over named arrays; its inputs are checked before each run.

    With `low` weights stay in the checkpoint's files, mapped into memory: every run reads them, and widens and forgets
    one tensor after the other.

    Raises:
        UserError: ONNX Runtime refuses the file, or, when called, an input does not fit or the run fails.
    """
    session = _session(path, low=low)
    wanted = {i.name: (_numpy(path, i), i.shape) for i in session.get_inputs()}
    outputs = [o.name for o in session.get_outputs()]

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        check_feeds(wanted, feeds)
        try:
            return dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))
        except _errors() as error:
            raise UserError(f"ONNX Runtime cannot run {path}: {_first_line(error)}") from error

    return run


def _session(path: Path, *, low: bool = False) -> Native:
    """An ONNX Runtime session on all the CPUs that this process may use."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = cpus()
    # threads that spin between runs would slow every other session of this process
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # weights of 4 and 8 bits are multiplied in fp32, as in every other runtime; the default rounds the other side, too
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if low:  # a packed or folded weight would be a copy in fp32, and an arena keeps what a run is done with
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.enable_cpu_mem_arena = settings.enable_mem_pattern = False
        # the highest level folds all the same; this one reads a transposed weight in place
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    without = ["ConstantFolding"] if low else []
    settings.log_severity_level = 3  # errors; the default also warns about every unused initializer
    try:
        return onnxruntime.InferenceSession(
            path, settings, providers=["CPUExecutionProvider"], disabled_optimizers=without
        )
    except _errors() as error:
        raise UserError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error


def _errors() -> tuple[type[Exception], ...]:
    """All that ONNX Runtime raises; its exceptions share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*kinds, RuntimeError, ValueError)


def _numpy(path: Path, tensor: Native) -> np.dtype[Any]:
    if tensor.type not in NUMPY:
        raise UserError(f"{path}: input '{tensor.name}' is {tensor.type}, which NumPy cannot hold")
    return np.dtype(NUMPY[tensor.type])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
