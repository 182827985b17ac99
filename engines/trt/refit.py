"""Another checkpoint's weights in a plan that was built refittable, without building it again."""

from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.trt.native import Native, listener, native
from engines.trt.parse import load_plugins
from engines.trt.runtime import deserialised
from engines.trt.words import complaint, refusal
from engines.trt.write import write
from plugins.library import NAME as LIBRARY


def refit_plan(module: str, plan: str, onnx: str, out: str) -> dict[str, Any]:
    """Puts the weights of a graph into a plan; run it in a child on a machine with the plan's GPU.

    Nothing of this has been run on a GPU by its authors: the tests check which calls are made, and what is said
    when one of them fails.

    Args:
        module: "tensorrt".
        plan: Path of a plan that was built with `Settings.refittable`; a library of plugins beside it is loaded.
        onnx: A graph with the same nodes and weights' names as the one that the plan was built from.
        out: Path of the new plan; appears only when it is complete.

    Returns:
        "weights": how many of the plan's weights the graph had to give.

    Raises:
        UserError: The plan cannot be read or refitted, or the graph's weights are not the plan's.
    """
    trt = native(module)
    logger = listener(trt, aloud=True)
    if (library := Path(plan).with_name(LIBRARY)).is_file():
        load_plugins(trt, library)
    engine = deserialised(trt, trt.Runtime(logger), Path(plan), "trt")
    if not engine.refittable:
        raise UserError(
            f"{plan} was not built refittable: build it with tp-export build BUNDLE --target trt --refittable"
        )
    count = _refit(trt, engine, onnx, logger)
    write(Path(out), lambda file: file.write(memoryview(engine.serialize())))
    return {"weights": count}


def _refit(trt: Native, engine: Native, onnx: str, logger: Native) -> int:
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(onnx):
        raise UserError(f"{onnx} has not the weights that the plan wants: {refusal(parser.get_error(0), logger.first)}")
    if missing := list(refitter.get_missing_weights()):
        raise UserError(f"{onnx} lacks {len(missing)} of the plan's weights, such as {missing[0]}: export it alike")
    if not refitter.refit_cuda_engine():
        raise UserError(f"the plan cannot take the weights of {onnx}: {complaint(logger.first)}")
    return len(refitter.get_all_weights())
