"""A plan as a function over named arrays, on this machine's GPU."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.registry import Runner
from engines.trt.gpu import missing
from engines.trt.native import Native, installed, listener, native
from engines.trt.parse import load_plugins
from engines.trt.plan import Plan
from engines.trt.words import one_line
from plugins.library import NAME as LIBRARY


def open_plan(path: Path, target: str, module: str, *, low: bool) -> Runner:
    """Loads a plan; arrays go to the GPU and back at every call, through memory that is kept.

    Args:
        path: The plan; a library of plugins beside it is loaded first.
        target: "trt" or "trt-rtx", for errors.
        module: Its Python module.
        low: Leave in the host's memory all weights that can stay there.

    Raises:
        UserError: No runtime, no GPU, no plan, or one that this runtime refuses; when called, arrays that do not fit.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such plan; build it with tp-export build BUNDLE --target {target}")
    if not installed(module):
        raise UserError(f"{path} needs {module}, which is not installed")
    if reason := missing():
        raise UserError(f"{path} cannot run: {reason}; run the target ort-cpu instead")
    trt = native(module)
    logger = listener(trt, aloud=False)
    if (library := path.with_name(LIBRARY)).is_file():
        load_plugins(trt, library)
    engine = deserialised(trt, trt.Runtime(logger), path, target)
    _stream_weights(engine, path, low=low)
    return Plan(trt, engine, logger, path)


def deserialised(trt: Native, runtime: Native, path: Path, target: str) -> Native:
    """The engine in a plan; UserError in one line if the runtime refuses it: damaged, foreign, or for another GPU."""
    runtime.engine_host_code_allowed = True  # a plan built to last brings its own runtime
    with mapped(path) as data:
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        why, again = one_line(runtime.logger.first), f"tp-export build BUNDLE --target {target}"
        raise UserError(f"{path} is no plan that {trt.__name__} {trt.__version__} runs here: {why}; build it: {again}")
    return engine


@contextmanager
def mapped(path: Path) -> Iterator[Any]:
    """A file's bytes without a copy of them; an empty file cannot be mapped."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _stream_weights(engine: Native, path: Path, *, low: bool) -> None:
    """Weights of a plan built for streaming: as many on the GPU as have room, or none."""
    if engine.streamable_weights_size:
        engine.weight_streaming_budget_v2 = 0 if low else engine.get_weight_streaming_automatic_budget()
    elif low:
        raise UserError(f"{path} holds all weights on the GPU: build it with --weight-streaming, or use --memory fast")
