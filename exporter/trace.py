"""From a part to an ONNX graph: torch.export with fake parameters, clean axis names, weights by reference."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from exporter.clip_aux import beside
from exporter.family import Family
from exporter.parts.base import Part, Port

OPSET = 23  # 20 has no Attention op; at 24 the exporter loses fusions
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PORTS = {"int64": torch.int64, "int32": torch.int32, "bool": torch.bool, "float32": torch.float32}
# Sizes for tracing, all different, so that no two axes are taken for one.
SIZES = {"batch": 2, "images": 3, "past": 5}


def fake_model(family: type[Family], config: object, dtype: str, attention: str) -> tuple[Family, FakeTensorMode]:
    """The family's model with fake parameters (shapes and dtypes, no data) and real buffers."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.device("meta"):
        model = beside(family.empty(config, DTYPES[dtype], attention), config, DTYPES[dtype])
    fakes: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            with mode:
                fake = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), requires_grad=False)
            module.register_parameter(name, fakes.setdefault(id(parameter), fake))
    built = family(config, model)
    built.restore_buffers()
    if hasattr(model, "clip"):
        built.clip.restore_buffers()
    return built, mode


def trace(part: Part, dtype: str, mode: FakeTensorMode) -> ir.Model:
    """Trace one part; its initialisers keep the model's parameter names and hold no data yet."""
    with mode:
        example, dynamic = examples(part, dtype)
    with quiet(), torch.no_grad():
        program = torch.export.export(part, example, dynamic_shapes=dynamic, strict=False)
        exported = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
    assert exported is not None
    model: ir.Model = exported.model
    _name(model, part, dtype)
    return model


def examples(part: Part, dtype: str) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Inputs of a part to trace it with, and which of their axes are dynamic, as torch.export wants it told."""
    axes = {axis for port in part.inputs for size in port.shape if isinstance(size, str) for axis in size.split("+")}
    sizes = {axis: SIZES.get(axis, 7 + 4 * rank) for rank, axis in enumerate(sorted(axes))}
    sizes |= {axis: int(axis) for axis in axes if axis.isdigit()}  # a constant in a sum
    sizes["tokens"] = 7 + 4 * len(axes) + _image_rows(part)
    example = tuple(torch.zeros(_shape(p, sizes), dtype=PORTS.get(p.dtype, DTYPES[dtype])) for p in part.inputs)
    dynamic = tuple(
        {i: torch.export.Dim.DYNAMIC for i, s in enumerate(p.shape) if isinstance(s, str)} for p in part.inputs
    )
    star = part.forward.__code__.co_flags & 0x04  # forward(*tensors)
    return example, (dynamic,) if star else dynamic


def _image_rows(part: Part) -> int:
    """Rows that all images of a prompt take: a traced prompt must be longer."""
    return sum(port.shape[1] * part.tokens for port in part.inputs if port.name == "span_starts")  # type: ignore[operator,misc]


def _shape(port: Port, sizes: dict[str, int]) -> list[int]:
    return [sum(sizes[axis] for axis in s.split("+")) if isinstance(s, str) else s for s in port.shape]


def _name(model: ir.Model, part: Part, dtype: str) -> None:
    """Give inputs, outputs and axes the names of the part's ports."""
    names: dict[str, str] = {}
    for value, port in zip(model.graph.inputs, part.inputs, strict=True):
        assert value.shape is not None
        for size, axis in zip(value.shape, port.shape, strict=True):
            if isinstance(axis, str) and "+" not in axis:
                names[str(size)] = axis
        value.name, value.shape = port.name, ir.Shape(port.shape)
    for value, port in zip(model.graph.outputs, part.found.outputs, strict=True):
        value.name = port.name
        if "" not in port.shape:
            value.shape = ir.Shape(port.shape)
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) or "$^")
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and value not in model.graph.outputs:
                value.shape = ir.Shape([_renamed(size, pattern, names) for size in value.shape])
    model.graph.name = part.name
    model.producer_name, model.producer_version = "tp-export", dtype


def _renamed(size: object, pattern: re.Pattern[str], names: dict[str, str]) -> int | str:
    return size if isinstance(size, int) else pattern.sub(lambda found: names[found.group()], str(size))


def save(model: ir.Model, path: Path) -> None:
    """Write the graph without traces of the machine that made it; weights stay in the shards."""
    ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)):
        value.metadata_props.clear()
    ir.save(model, path)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Tracing makes millions of objects that live to its end: to search them for garbage takes a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
        gc.collect()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter warns about packages we do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
