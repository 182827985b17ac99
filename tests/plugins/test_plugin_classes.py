"""The plugins as TensorRT uses them, with the kernels on the CPU: TRT_INCLUDE_DIR=DIR pytest -m headers."""

import ctypes
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from plugins import twins
from tests.plugins.compilers import headers, nvcc, run
from tests.plugins.on_cpu import FLAGS, KERNELS, SOURCES, Output, at
from tests.plugins.scores import DTYPES, hard, scores, tied

pytestmark = pytest.mark.headers
HERE = Path(__file__).parent
CODES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "bfloat16": 7, "int64": 8}


class Port(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("rank", ctypes.c_int), ("dims", ctypes.c_int64 * 8), ("data", ctypes.c_void_p)]


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    kernels = ["-include", HERE / "cuda_on_cpu.hpp", "-x", "c++", *(SOURCES / f"{name}.cu" for name in KERNELS)]
    classes = [*(SOURCES / name for name in ("rules.cpp", "plugin.cpp", "creators.cpp")), HERE / "plugin_probe.cpp"]
    places = ["-isystem", headers(), "-I", SOURCES]
    options = ["-std=c++17", *places, '-DTP_GPUS=""', "-Xcompiler=-Wall,-Wextra,-Werror,-fPIC"]
    run("g++", *FLAGS, "-fPIC", "-c", *kernels, folder=folder)
    run(nvcc(), *options, "-c", *classes, folder=folder)
    run("g++", "-shared", *folder.glob("*.o"), "-o", "probe.so", folder=folder)
    return ctypes.CDLL(str(folder / "probe.so"))


def port(array, shape=None):
    """An input; `shape` where the array is less than it says."""
    shape = shape or array.shape
    return Port(CODES[array.dtype.name], len(shape), (ctypes.c_int64 * 8)(*shape), at(array))


def ran(probe, name, inputs, outputs, k, form="", count=None):
    """Outputs as arrays; `outputs` are their (shape, type)."""
    given = [*inputs] if count is None else [*inputs, np.array([count], np.int64)]
    made = [Output(*each) for each in outputs] + ([] if count is None else [Output((), np.int32)])
    places = [Port(-1, len(each.shape), (ctypes.c_int64 * 8)(*each.shape), each.address) for each in made]
    ports, size = (Port * 8)(*map(port, given)), ctypes.c_int64()
    into = (Port * 8)(*places)
    words = (name.encode(), form.encode(), k, int(count is not None), ports, len(given), into, len(made))
    code = probe.run(*words, ctypes.byref(size), None)
    assert code == 0, f"step {code}"
    assert size.value == 0
    assert [CODES[np.dtype(each.dtype).name] for each in made] == [one.type for one in into[: len(made)]]
    if count is None:
        return [each.read() for each in made]
    assert made[-1].read()[()] == min(max(count, 1), k)
    return [each.read((each.shape[0], count, *each.shape[2:])) for each in made[:-1]]


def same(got, want):
    assert [(one.shape, one.tobytes()) for one in got] == [(other.shape, other.tobytes()) for other in want]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [None, 5])
def test_select(probe, dtype, count):
    given = scores(1, hard, dtype, 3, 145)
    got = ran(probe, "Select", [given], [((3, 20), np.int64)], 20, count=count)
    same(got, [twins.select(given, count or 20)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int32, np.int64])
@pytest.mark.parametrize("count", [None, 7])
def test_token_select(probe, dtype, kind, count):
    given = scores(2, tied, dtype, 2, 145)
    tokens = np.random.default_rng(3).integers(0, 100, (2, 145, 33)).astype(kind)
    got = ran(probe, "TokenSelect", [given, tokens], [((2, 64, 33), kind), ((2, 64), np.int64)], 64, count=count)
    same(got, twins.token_select(given, tokens, count or 64))


@pytest.mark.parametrize("form", twins.FORMS)
@pytest.mark.parametrize("count", [None, 9])
def test_diverse_select(probe, form, count):
    matrix, start = scores(4, tied, np.float32, 2, 60, 60), scores(5, tied, np.float32, 2, 60)
    got = ran(probe, "DiverseSelect", [matrix, start], [((2, 12), np.int64)], 12, form, count)
    same(got, [twins.diverse_select(matrix, start, count or 12, form)])


def test_a_workspace_where_registers_are_too_few(probe):
    row = np.linspace(1, 0, 16385, dtype=np.float32)[None]
    given = [port(row, (1, 16385, 16385)), port(row)]
    picks, size, room = Output((1, 2), np.int64), ctypes.c_int64(), np.zeros(16385, np.float32)
    into = (Port * 8)(Port(-1, 2, (ctypes.c_int64 * 8)(1, 2), picks.address))
    code = probe.run(b"DiverseSelect", b"max-sum", 2, 0, (Port * 8)(*given), 2, into, 1, ctypes.byref(size), at(room))
    assert (code, size.value) == (0, room.nbytes)
    assert picks.read().tolist() == [[0, 1]]


def test_more_than_there_are_is_refused(probe):
    given, size = scores(6, tied, np.float32, 1, 9), ctypes.c_int64()
    into = (Port * 8)(Port(-1, 2, (ctypes.c_int64 * 8)(1, 10), at(given)))
    code = probe.run(b"Select", b"", 10, 0, (Port * 8)(port(given)), 1, into, 1, ctypes.byref(size), None)
    assert code == 10  # when the shape becomes known
