"""Copies between host and device through the GPU driver's own library: no package is needed."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def download(device: int, shape: tuple[int, ...], dtype: Any, stream: int) -> Array:
    """What lies at an address of the GPU once its stream has done its work; RuntimeError where there is no GPU."""
    host = np.empty(shape, dtype)
    _copy("cuMemcpyDtoHAsync_v2", host.ctypes.data, device, host.nbytes, stream)
    return host


def upload(device: int, host: Array, stream: int) -> None:
    """Write an array to an address of the GPU; RuntimeError where there is none."""
    host = np.ascontiguousarray(host)
    _copy("cuMemcpyHtoDAsync_v2", device, host.ctypes.data, host.nbytes, stream)


def _copy(kind: str, to: int, of: int, size: int, stream: int) -> None:
    """One copy in stream order, and the wait for it."""
    address = ctypes.c_uint64
    if size and (code := getattr(library(), kind)(address(to), address(of), ctypes.c_size_t(size), address(stream))):
        raise RuntimeError(f"{kind}: the GPU driver returned error {code}")
    if code := library().cuStreamSynchronize(address(stream)):
        raise RuntimeError(f"cuStreamSynchronize: the GPU driver returned error {code}")


@cache
def library() -> Any:
    """The driver."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError("Python plugins run where an NVIDIA GPU is, and there is none: use the library") from error
