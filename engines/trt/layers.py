"""The final layers of a plan: from the builder's log (TensorRT-RTX, no GPU needed) or from the engine inspector."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HEADING = re.compile(r"(\w+ )?Layers:\s*$")  # a severity may stand before it
TENSOR = re.compile(r"{ Name: (.*?), (?:Location: \w+, )?Dimensions: \[([-\d,]*)\],[^}]*?Datatype: (\w+)")
TACTIC = re.compile(r", TacticName: ([^,\s]*)")
GROUP = re.compile(r"_(myl\d+)(?:_\d+)?$")  # layers and tensors that were compiled together
PROFILE = re.compile(r"\[profile (\d+)\]")
ORIGINS = re.compile("[\x1e\x1f]+")
# The inspector writes "Half", or "Channel major FP16 format where channel % 8 == 0"; other words are our own.
DTYPES = {"bfloat16": "bf16", "half": "fp16", "float": "fp32"}
KNOWN = {*DTYPES.values(), "int64", "int32", "int8", "uint8", "bool", "fp8", "int4", "fp4"}


@dataclass(frozen=True)
class Tensor:
    """What a layer reads or writes: dtype as in "fp16", -1 for a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One layer of a plan, usually one kernel.

    Attributes:
        name: what the builder calls it.
        type: the builder's word, such as "kgen", "gemm" or "DeviceToShapeHost".
        tactic: the kernel, where the builder says so.
        inputs: without weights and other constants.
        outputs: all.
        nodes: the ONNX nodes that it came from, as the parser knows them.
        profile: the shape range that it was built for.
    """

    name: str
    type: str
    tactic: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]
    profile: int = 0


def read(log: str) -> list[Layer]:
    """The last layer list in a log of level VERBOSE, of a build with DETAILED profiling; empty if there is none."""
    found: list[Layer] = []
    for line in log.split("\n"):  # splitlines would break at the separators of ONNX nodes, too
        if HEADING.match(line):
            found = []
        elif line.startswith("Name: ") and ", LayerType: " in line:
            found.append(_parsed(line))
    return _with_profiles(found)


def from_inspector(told: Mapping[str, Any]) -> list[Layer]:
    """The layers in the JSON of IEngineInspector with DETAILED profiling, as TensorRT 10 and 11 write it.

    Without DETAILED profiling layers are mere names: empty.
    """
    return _with_profiles([_inspected(layer) for layer in told["Layers"] if isinstance(layer, Mapping)])


def save(layers: Iterable[Layer], file: Path) -> None:
    """Write a layer list as JSON, one layer a line."""
    rows = ",\n".join(json.dumps(asdict(layer)) for layer in layers)
    file.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def load(file: Path) -> list[Layer]:
    """What `save` wrote.

    Raises:
        ValueError: it is something else; KeyError and TypeError likewise.
    """
    return [
        Layer(**{**row, **{side: tuple(_loaded(t) for t in row[side]) for side in ("inputs", "outputs")},
                 "nodes": tuple(row["nodes"])})
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]  # fmt: skip


def _loaded(tensor: Mapping[str, Any]) -> Tensor:
    return Tensor(tensor["name"], tensor["dtype"], tuple(tensor["shape"]))


def _parsed(line: str) -> Layer:
    """One line of the log: name, type, inputs with constants, outputs with tactic, origins."""
    head, _, rest = line.partition(", Inputs: [")
    reads, _, rest = rest.partition(", Outputs: [")
    writes, _, origins = rest.partition(", Metadata:")
    name, _, kind = head.removeprefix("Name: ").partition(", LayerType: ")
    tactic = TACTIC.search(writes)
    return Layer(
        name,
        kind,
        tactic[1] if tactic else "",
        _tensors(reads.partition(", Constants: [")[0]),
        _tensors(writes),
        _nodes(origins),
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, _dtype(dtype), tuple(int(size) for size in dims.split(",") if size))
        for name, dims, dtype in TENSOR.findall(text)
    )


def _inspected(layer: Mapping[str, Any]) -> Layer:
    reads, writes = (
        tuple(
            Tensor(t["Name"], _dtype(t.get("Datatype") or t.get("Format/Datatype", "")), tuple(t["Dimensions"]))
            for t in layer.get(side, ())
        )
        for side in ("Inputs", "Outputs")
    )
    tactic, kind = layer.get("TacticName", ""), layer.get("LayerType", "")
    return Layer(layer["Name"], kind, tactic, reads, writes, _nodes(layer.get("Metadata", "")))


def _dtype(words: str) -> str:
    """The builder's word for an element type in ours."""
    ours = [DTYPES.get(word, word) for word in words.lower().split()]
    return next((word for word in ours if word in KNOWN), words.lower())


def _nodes(origins: str) -> tuple[str, ...]:
    """'[ONNX Layer: a]<separator>[ONNX Layer: b]' as names."""
    marks = (mark.strip() for mark in ORIGINS.split(origins))
    return tuple(mark.removeprefix("[ONNX Layer: ").removesuffix("]") for mark in marks if mark)


def _with_profiles(layers: Sequence[Layer]) -> list[Layer]:
    """Each with its profile: by the mark on names of layers and tensors, or that of what was compiled with it."""
    own = [_marked(layer) for layer in layers]
    groups = [GROUP.search(layer.name) for layer in layers]
    shared = {group[1]: mark for group, mark in zip(groups, own, strict=True) if group and mark}
    return [
        replace(layer, profile=mark or (shared.get(group[1], 0) if group else 0))
        for layer, mark, group in zip(layers, own, groups, strict=True)
    ]


def _marked(layer: Layer) -> int:
    names = (layer.name, *(tensor.name for tensor in (*layer.inputs, *layer.outputs)))
    return next((int(mark[1]) for name in names if (mark := PROFILE.search(name))), 0)
