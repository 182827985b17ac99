"""OpenVINO on the CPU: the .onnx file is the engine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from engines.feeds import check_feeds
from engines.graph_engine import proved, refuse_options
from engines.registry import Arrays, BuildJob, BuildResult, Dtype, Runner

name = "ov-cpu"
extension = ".onnx"
install = "pip install 'tp-export[openvino]'"

Native = Any  # openvino's types are not ours to follow
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # else a CPU with 16-bit units rounds
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # else what meets weights of 4 or 8 bits is rounded to 8, too
}


def available() -> str | None:
    """None if OpenVINO is installed."""
    return None if find_spec("openvino") else "openvino is not installed"


def version() -> str:
    """OpenVINO's version."""
    import openvino

    return str(openvino.__version__)


def dtype(checkpoint: Dtype) -> Dtype:  # noqa: ARG001 - the contract of every backend
    """Always fp32: as ort-cpu, whose indices these must equal."""
    return "fp32"


def check(options: tuple[str, ...]) -> None:
    """Raises UserError: this target has no options."""
    refuse_options(name, options)


def build(job: BuildJob) -> BuildResult:
    """Proves in a child process that the graph compiles; the engine is the .onnx file itself."""
    return proved(job, f"{__name__}:build_here", f"compiling '{job.part}' for {name}")


def build_here(onnx: str, *, light: bool = False) -> dict[str, Any]:
    """Compiles the graph; runs in the child. A light build reads it only, and so leaves the weights on the disk."""
    start = time.perf_counter()
    (_model if light else _compiled)(Path(onnx))
    return {"seconds": time.perf_counter() - start}


def load(path: Path, *, low: bool = False) -> Runner:
    """The graph as a function over named arrays; its inputs are checked before each run.

    Raises:
        UserError: `low` is asked for, or OpenVINO refuses the file; when called, an input does not fit or a run fails.
    """
    if low:
        raise UserError(f"target {name} holds all weights in memory: use ort-cpu with --memory low")
    compiled, outputs = _compiled(path)
    wanted = {port.any_name: (_numpy(path, port), _sizes(port)) for port in compiled.inputs}

    def run(feeds: Arrays) -> dict[str, NDArray[Any]]:
        check_feeds(wanted, feeds)
        # NumPy has two types that it calls int64; OpenVINO knows one of them
        known = {key: array.view(wanted[key][0]) for key, array in feeds.items()}
        with _in_words(f"run {path}"):
            found = compiled(known)
        return {key: found[number] for number, key in enumerate(outputs)}

    return run


def _compiled(path: Path) -> tuple[Native, list[str]]:
    """A model on all the CPUs that this process may use, and the names of the graph's outputs; more may follow them."""
    import openvino

    model, outputs = _model(path)
    with _in_words(f"load {path}"):
        return openvino.Core().compile_model(model, "CPU", SETTINGS), outputs


def _model(path: Path) -> tuple[Native, list[str]]:
    """The graph as OpenVINO reads it, and the names of its outputs."""
    if reason := available():
        raise UserError(f"target {name} is not available: {reason}; {install}")
    import openvino

    with _in_words(f"load {path}"):
        model = openvino.Core().read_model(path)
        outputs = [port.any_name for port in model.outputs]
        _make_exact(path, model)
        return model, outputs


def _make_exact(path: Path, model: Native) -> None:
    """Ties as ONNX breaks them, and reductions of integers that are right in a batch.

    OpenVINO's TopK gives equal values in any order unless it is told to be stable. Arithmetic behind a reduction of
    integers is fused into it and then wrong from a batch's second row on (2026.4); what is an output too stays whole.

    Raises:
        UserError: such a reduction lies in a loop, where nothing can become an output.
    """
    for body, node in list(_nodes(model)):
        if node.get_type_name() == "TopK":
            node.set_attribute("stable", True)  # noqa: FBT003 - as OpenVINO declares it
        elif node.get_type_name().startswith("Reduce") and node.get_element_type().is_integral_number():
            if body is not model:
                raise UserError(f"{path}: OpenVINO reduces integers in a loop wrongly: use the target ort-cpu")
            model.add_outputs(node.output(0))


def _nodes(model: Native) -> Iterator[tuple[Native, Native]]:
    """Every node behind the model that it stands in, also in the bodies of loops."""
    for node in model.get_ops():
        yield model, node
        if node.get_type_name() == "Loop":
            yield from _nodes(node.get_function())


def _sizes(port: Native) -> list[int | None]:
    return [size.get_length() if size.is_static else None for size in port.partial_shape]


def _numpy(path: Path, port: Native) -> np.dtype[Any]:
    if port.element_type.to_string() == "bf16":
        raise UserError(f"{path}: input '{port.any_name}' is bf16, which NumPy cannot hold")
    kind: np.dtype[Any] = np.dtype(port.element_type.to_dtype())
    return kind


@contextmanager
def _in_words(doing: str) -> Iterator[None]:
    """OpenVINO's errors as one line, without where in its sources they were raised."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = " ".join(line for line in lines if not line.startswith("Exception from "))
        raise UserError(f"OpenVINO cannot {doing}: {reason[:300]}") from error
