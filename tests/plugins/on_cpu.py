"""The kernels' own source, compiled for the CPU and called through its C interface; see cuda_on_cpu.hpp."""

import ctypes
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from tests.documents import ROOT
from tests.plugins.compilers import run

SOURCES = ROOT / "plugins" / "src"
KERNELS = ("select", "token_select", "diverse_select")
FLOATS = {"float32": 0, "float16": 1, "bfloat16": 2}
FORMS = {"max-min": 0, "max-sum": 1}
MARGIN, FILL = 64, 0xA7  # bytes around every output, and what is there before and must be there afterwards
FLAGS = ("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE")


@cache
def library():
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernels.so")
        sources = [SOURCES / f"{kernel}.cu" for kernel in KERNELS]
        header = Path(__file__).parent / "cuda_on_cpu.hpp"
        compile_cpp(["-shared", "-fPIC", "-include", header, "-x", "c++", *sources, "-o", file])
        return ctypes.CDLL(str(file))


def compile_cpp(words):
    run("g++", *FLAGS, *words)


class Output:
    """An array for a kernel to write, with margins that it must leave alone."""

    def __init__(self, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.full(size + 2 * MARGIN + 16, FILL, np.uint8)
        self.start = MARGIN + -(raw.ctypes.data + MARGIN) % 16  # device memory is aligned
        self.raw, self.size, self.shape, self.dtype = raw, size, shape, dtype
        self.address = ctypes.c_void_p(raw.ctypes.data + self.start)

    def read(self, shape=None):
        """The array; `shape` where less of it was to be written."""
        used = int(np.prod(shape or self.shape)) * np.dtype(self.dtype).itemsize
        before, rest = self.raw[: self.start], self.raw[self.start + used :]
        assert (before == FILL).all(), "written before the output"
        assert (rest == FILL).all(), "written behind the output"
        return self.raw[self.start : self.start + used].view(self.dtype).reshape(shape or self.shape)


def select(scores, k, *, count=None, index=np.int64, order=0):
    """`tp_select`; with `count`, a pair of the indices and of the number that it wrote."""
    out, size = Output((*scores.shape[:-1], k), index), Output((), np.int32)
    batch, n = scores.size // scores.shape[-1], scores.shape[-1]
    args = (at(scores), FLOATS[scores.dtype.name], out.address, np.dtype(index).itemsize, batch, n, k)
    call("tp_select", args, count, size, order)
    return results(size, count, k, out)


def token_select(scores, tokens, k, *, count=None, index=np.int64, order=0, shift=0):
    """`tp_token_select`; `shift` misplaces the tokens by so many bytes."""
    batch, n = scores.shape
    width = tokens[0, 0].nbytes
    moved = np.zeros(tokens.nbytes + 32, np.uint8)
    start = -moved.ctypes.data % 16 + shift
    moved[start : start + tokens.nbytes] = tokens.view(np.uint8).ravel()
    kept, out = Output((batch, k, *tokens.shape[2:]), tokens.dtype), Output((batch, k), index)
    size, rows = Output((), np.int32), (ctypes.c_void_p(moved.ctypes.data + start), ctypes.c_size_t(width))
    places = (kept.address, out.address, np.dtype(index).itemsize, batch, n, k)
    call("tp_token_select", (at(scores), FLOATS[scores.dtype.name], *rows, *places), count, size, order)
    return results(size, count, k, kept, out)


def diverse_select(matrix, start, k, form, *, count=None, index=np.int64, order=0):
    """`tp_diverse_select`."""
    batch, n = start.shape
    out, size = Output((batch, k), index), Output((), np.int32)
    space = Output((library().tp_diverse_workspace(batch, n),), np.uint8)
    args = (at(matrix), at(start), FORMS[form], out.address, np.dtype(index).itemsize, batch, n, k)
    call("tp_diverse_select", args, count, size, order, space.address)
    return results(size, count, k, out)


def call(name, args, count, size, order, *more):
    told = np.array([0 if count is None else count], np.int64)
    dynamic = (None, None) if count is None else (at(told), size.address)
    library().cuda_on_cpu_order(order)
    assert getattr(library(), name)(*args, *dynamic, *more, None) == 0


def results(size, count, k, *outputs):
    if count is None:
        size.read((0,))
        read = [each.read() for each in outputs]
    else:
        kept = int(size.read()[()])
        assert kept == min(max(count, 1), k)
        read = [each.read((each.shape[0], kept, *each.shape[2:])) for each in outputs]
    return read[0] if len(read) == 1 else tuple(read)


def at(array):
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
