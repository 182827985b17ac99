"""TensorRT's complaints as one line each, with what a user can do about the known ones."""

import re
from typing import Any

LONGEST = 400
RELIEF = "lower --max-batch, --max-length or --level, or build with --weight-streaming"

WHERE = re.compile(r"^(?:\[\d+\] )?\w+\.cpp:\d+: |\s*\(?\bIn \w+ at /\S+\.(?:cpp|h):\d+\)?")
SOURCE = re.compile(r"^(?:\[[^]]*\]|[\w:]+:)? ?Error Code \d+: [\w ]+\((.*?)\)?$")
TOO_MANY = re.compile(r"(?:ITopKLayer|TopK) ([^:\s]+).*K exceeds the maximum value allowed \((\d+)\)")
MEMORY = re.compile(r"out ?of ?memory|insufficient memory|not enough memory|allocation failed", re.IGNORECASE)


def refusal(error: Any, first: str) -> str:
    """What the parser has against a file: its error, or what it logged first where that says more."""
    said, node = one_line(error.desc()), f"{error.node_operator()} {error.node_name()}".strip()
    if "Failed to parse the ONNX model" in said:
        return "the ONNX parser refuses the file: it is no ONNX model, or not all of one; copy or export it again"
    if "Failed to import initializer" in said:
        return f"the ONNX parser refuses the file's weights: {one_line(first)}; copy or export them again"
    if "Plugin not found" in said:
        return (
            f"the ONNX parser refuses {node}: no such operator, and no plugin of that name; name a --plugin that has it"
        )
    return f"the ONNX parser refuses {node or 'the file'}: {said}"


def complaint(first: str) -> str:
    """What the builder has against a graph, from the first error that it logged."""
    if found := TOO_MANY.search(first):
        return f"TopK {found[1]} takes at most {found[2]}: lower --keep, or build with --plugin"
    said = one_line(first) or "the builder gave up without a word"
    return f"{said.rstrip('.')}: {RELIEF}" if MEMORY.search(first) else said


def one_line(text: str) -> str:
    """A message without where in TensorRT's sources it came from."""
    said = WHERE.sub("", " ".join(text.split()))
    found = SOURCE.match(said)
    return (found[1] if found else said)[:LONGEST]
