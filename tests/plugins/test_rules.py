"""What the plugins tell a builder, run without TensorRT: attributes, types, shapes, sizes."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.on_cpu import SOURCES, compile_cpp

OPERATORS = ("Select", "TokenSelect", "DiverseSelect")
FP32, FP16, INT8, INT32, FP8, BF16, INT64 = 0, 1, 2, 3, 6, 7, 8
FIELD_FLOAT, FIELD_INT32, FIELD_CHAR, FIELD_INT64 = 1, 5, 6, 10


class Told(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("op", "k", "form", "dynamic", "index_bytes")]


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    file = tmp_path_factory.mktemp("rules") / "rules.so"
    sources = (Path(__file__).parent / "rules_probe.cpp", SOURCES / "rules.cpp")
    compile_cpp(["-std=c++17", "-shared", "-fPIC", "-I", SOURCES, *sources, "-o", file])
    loaded = ctypes.CDLL(str(file))
    for name in ("read", "check", "output_shape", "sizes"):
        getattr(loaded, name).restype = ctypes.c_char_p
    return loaded


def told(operator, k=4, form=0, dynamic=0, index_bytes=8):
    return ctypes.byref(Told(OPERATORS.index(operator), k, form, dynamic, index_bytes))


def ints(*values):
    return (ctypes.c_int * 16)(*values)


def shape(rules, operator, output, *ranks, dynamic=0):
    """Of an output with k = 4: "input.axis" or "k" for each axis."""
    rank, extents = ctypes.c_int(), ints()
    wrong = rules.output_shape(told(operator, dynamic=dynamic), output, ints(*ranks), ctypes.byref(rank), extents)
    if wrong:
        return wrong.decode()
    pairs = zip(extents[0 : 2 * rank.value : 2], extents[1 : 2 * rank.value : 2], strict=True)
    return " ".join("k" if source < 0 else f"{source}.{axis}" for source, axis in pairs)


@pytest.mark.parametrize(
    ("operator", "output", "ranks", "dynamic", "want"),
    [
        ("Select", 0, (2,), 0, "0.0 k"),
        ("Select", 0, (1,), 0, "k"),
        ("Select", 0, (4,), 0, "0.0 0.1 0.2 k"),
        ("Select", 0, (2, 1), 1, "0.0 k"),
        ("Select", 1, (2, 1), 1, ""),
        ("TokenSelect", 0, (2, 3), 0, "0.0 k 1.2"),
        ("TokenSelect", 1, (2, 3), 0, "0.0 k"),
        ("TokenSelect", 0, (3, 5), 0, "0.0 0.1 k 1.3 1.4"),
        ("TokenSelect", 0, (2, 2), 0, "0.0 k"),
        ("TokenSelect", 2, (2, 3, 1), 1, ""),
        ("DiverseSelect", 0, (3, 2), 0, "1.0 k"),
        ("DiverseSelect", 1, (3, 2, 1), 1, ""),
        ("DiverseSelect", 0, (2, 2), 0, "matrix must have one axis more than start"),
        ("TokenSelect", 0, (2, 1), 0, "tokens must have the axes of scores first"),
        ("Select", 0, (0,), 0, "scores must have 1 to 8 axes"),
    ],
)
def test_shapes(rules, operator, output, ranks, dynamic, want):
    assert shape(rules, operator, output, *ranks, dynamic=dynamic) == want


@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize(
    ("operator", "inputs", "outputs"), [("Select", 1, 1), ("TokenSelect", 2, 2), ("DiverseSelect", 2, 1)]
)
def test_ports(rules, operator, inputs, outputs, dynamic):
    given = told(operator, dynamic=dynamic)
    assert (rules.inputs(given), rules.outputs(given)) == (inputs + dynamic, outputs + dynamic)


def accepted(rules, given, *types):
    """Whether each of a plugin's ports, inputs and then outputs, takes its type."""
    return [bool(rules.accepts(given, place, ints(*types))) for place in range(len(types))]


@pytest.mark.parametrize("scores", [FP32, FP16, BF16])
@pytest.mark.parametrize("tokens", [FP32, FP16, BF16, INT8, INT32, INT64])
def test_token_select_takes_any_float_and_any_tokens(rules, scores, tokens):
    given = told("TokenSelect")
    assert all(accepted(rules, given, scores, tokens, tokens, INT64))
    assert accepted(rules, given, scores, tokens, (tokens + 1) % 3, INT32) == [True, True, False, False]
    assert [rules.output_type(given, i, ints(scores, tokens)) for i in (0, 1)] == [tokens, INT64]


def test_types_of_the_others(rules):
    for kind in (FP32, FP16, BF16):
        assert all(accepted(rules, told("Select"), kind, INT64))
        assert all(accepted(rules, told("Select", index_bytes=4), kind, INT32))
    for kind in (INT8, INT32, INT64, FP8):
        assert accepted(rules, told("Select"), kind, INT64) == [False, True]
    assert all(accepted(rules, told("DiverseSelect"), FP32, FP32, INT64))
    assert accepted(rules, told("DiverseSelect"), FP16, BF16, INT64) == [False, False, True]
    assert accepted(rules, told("TokenSelect"), FP32, FP8) == [True, False]


def test_a_count_is_int64_and_a_size_is_int32(rules):
    given = told("TokenSelect", dynamic=1)
    assert all(accepted(rules, given, FP16, BF16, INT64, BF16, INT64, INT32))
    assert accepted(rules, given, FP16, BF16, INT32, BF16, INT64, INT64) == [True, True, False, True, True, False]


def field(rules, name, value, kind):
    """What a field makes of the settings, or what is wrong with it."""
    given = Told(2, 0, 0, 0, 8)
    data = value if isinstance(value, bytes) else np.asarray(value).tobytes()
    size = len(np.ravel(value)) if not isinstance(value, bytes) else len(value)
    wrong = rules.read(ctypes.byref(given), name, data, kind, size)
    return wrong.decode() if wrong else (given.k, given.form, given.dynamic, given.index_bytes)


@pytest.mark.parametrize(
    ("name", "value", "kind", "want"),
    [
        (b"k", np.int32([64]), FIELD_INT32, (64, 0, 0, 8)),
        (b"k", np.int64([64]), FIELD_INT64, (64, 0, 0, 8)),
        (b"k", np.float32([64]), FIELD_FLOAT, "k must be one positive integer"),
        (b"k", np.int32([]), FIELD_INT32, "k must be one positive integer"),
        (b"k", np.int32([-1]), FIELD_INT32, "k must be one positive integer"),
        (b"k", np.int64([1 << 40]), FIELD_INT64, "k must be one positive integer"),
        (b"dynamic", np.int32([1]), FIELD_INT32, (0, 0, 1, 8)),
        (b"index_bytes", np.int32([4]), FIELD_INT32, (0, 0, 0, 4)),
        (b"form", b"max-min", FIELD_CHAR, (0, 0, 0, 8)),
        (b"form", b"max-sum", FIELD_CHAR, (0, 1, 0, 8)),
        (b"form", b"max-sum\0", FIELD_CHAR, (0, 1, 0, 8)),
        (b"form", b"facility", FIELD_CHAR, "form must be max-min or max-sum"),
        (b"form", b"", FIELD_CHAR, "form must be max-min or max-sum"),
        (b"plugin_namespace", b"tp.export", FIELD_CHAR, (0, 0, 0, 8)),
    ],
)
def test_fields(rules, name, value, kind, want):
    assert field(rules, name, value, kind) == want


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({}, None),
        ({"k": 0}, b"k must be one positive integer"),
        ({"dynamic": 2}, b"dynamic must be 0 or 1"),
        ({"index_bytes": 2}, b"index_bytes must be 4 or 8"),
    ],
)
def test_settings_together(rules, settings, want):
    assert rules.check(told("Select", **settings)) == want


def sizes(rules, operator, *dims, kind=FP16, dynamic=0):
    flat = [each for one in dims for each in one]
    found = (ctypes.c_int64 * 3)()
    ranks, types = ints(*(len(one) for one in dims)), ints(kind, kind, kind)
    wrong = rules.sizes(told(operator, dynamic=dynamic), (ctypes.c_int64 * 32)(*flat), ranks, types, found)
    return wrong.decode() if wrong else tuple(found)


def test_sizes_of_a_launch(rules):
    assert sizes(rules, "Select", (2, 3, 576)) == (6, 576, 0)
    assert sizes(rules, "Select", (0, 576)) == (0, 576, 0)
    assert sizes(rules, "TokenSelect", (2, 577), (2, 577, 1024)) == (2, 577, 2048)
    assert sizes(rules, "TokenSelect", (2, 577), (2, 577, 3, 5), kind=INT8) == (2, 577, 15)
    assert sizes(rules, "TokenSelect", (2, 577), (2, 577), (1,), dynamic=1) == (2, 577, 2)
    assert sizes(rules, "DiverseSelect", (2, 576, 576), (2, 576), kind=FP32) == (2, 576, 0)


def test_sizes_that_cannot_be(rules):
    assert sizes(rules, "Select", (2, 3)) == "k is more than a row has scores"
    assert sizes(rules, "Select", (2, 1 << 40)) == "rows are too many or too long"
    assert sizes(rules, "TokenSelect", (2, 577), (2, 576, 8)) == "the inputs' leading axes differ"
    assert sizes(rules, "TokenSelect", (2, 577), (1, 577, 8)) == "the inputs' leading axes differ"
    assert sizes(rules, "DiverseSelect", (2, 576, 577), (2, 576)) == "matrix must be square"
