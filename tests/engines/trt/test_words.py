from types import SimpleNamespace

import pytest

from engines.trt.words import RELIEF, complaint, one_line, refusal


def error(desc, operator="", name=""):
    return SimpleNamespace(desc=lambda: desc, node_operator=lambda: operator, node_name=lambda: name)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ModelImporter.cpp:140: While parsing\nnode", "While parsing node"),
        ("WeightsContext.cpp:203: Failed to open file: /a/b.bin", "Failed to open file: /a/b.bin"),
        (
            "IBuilder::build: Error Code 4: API Usage Error (No output. In validate at /_src/network.cpp:38)",
            "No output.",
        ),
        ("[shapes.cpp::check::872] Error Code 4: Internal Error (node_of_v: no)", "node_of_v: no"),
        ("Error Code 1: Cuda (no GPU today)", "no GPU today"),
        ("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (not this version)", "not this version"),
        ("x" * 900, "x" * 400),
        ("", ""),
    ],
)
def test_places_in_sources_are_left_out(text, line):
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("first", "line"),
    [
        (
            "IBuilder::x: Error Code 4: API Usage Error (ITopKLayer v: v: K exceeds the maximum value allowed (3840).)",
            "TopK v takes at most 3840: lower --keep, or build with --plugin",
        ),
        (
            "IBuilder::build: Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)",
            f"Requested size was 8589934592 bytes: {RELIEF}",
        ),
        ("[virtualMemoryBuffer.cpp::resizePhysical::154] Error: out of memory", None),
        ("", "the builder gave up without a word"),
    ],
)
def test_what_the_builder_says_and_what_helps(first, line):
    assert complaint(first) == line if line else complaint(first).endswith(RELIEF)


@pytest.mark.parametrize(
    ("said", "first", "line"),
    [
        (error("no kernel\nfor it", "NonZero", "odd"), "", "the ONNX parser refuses NonZero odd: no kernel for it"),
        (error("no reason"), "", "the ONNX parser refuses the file: no reason"),
        (
            error("Failed to import initializer: w"),
            "WeightsContext.cpp:203: Failed to open file: /a.bin",
            "the ONNX parser refuses the file's weights: Failed to open file: /a.bin; copy or export them again",
        ),
    ],
)
def test_what_the_parser_refuses(said, first, line):
    assert refusal(said, first) == line
