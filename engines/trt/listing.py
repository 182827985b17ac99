"""The layers of a plan, written beside it: as the engine inspector tells them, or else the builder's log."""

import json
from pathlib import Path

from engines.errors import UserError
from engines.trt import layers
from engines.trt.native import FULL, Native
from engines.trt.runtime import deserialised


def layers_file(plan: Path) -> Path:
    """Where the layers of a plan are listed."""
    return plan.with_suffix(".layers.json")


def list_layers(trt: Native, logger: Native, plan: Path) -> list[layers.Layer]:
    """Lists the layers of a plan that was built just now, in the same process.

    Full TensorRT has a GPU to open the plan on, and an inspector; if that fails, or for TensorRT-RTX, which may have
    no GPU, it is what the builder logged.
    """
    found = (_inspected(trt, logger, plan) if trt.__name__ == FULL else []) or layers.read(logger.layers)
    layers.save(found, layers_file(plan))
    return found


def _inspected(trt: Native, logger: Native, plan: Path) -> list[layers.Layer]:
    try:
        inspector = deserialised(trt, trt.Runtime(logger), plan, "trt").create_engine_inspector()
    except UserError:  # such as no room on the GPU beside the builder
        return []
    return layers.from_inspector(json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))
