"""Memory on the GPU, kept between runs."""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from engines.trt.gpu import cuda_runtime
from engines.trt.words import RELIEF


class Memory:
    """Buffers by name, each as large as the largest array that it held, and one stream that everything goes through."""

    def __init__(self) -> None:
        self._cuda = cast("Any", cuda_runtime())
        self._buffers: dict[str, tuple[int, int]] = {}  # address, bytes
        self.stream = int(self._done(self._cuda.cudaStreamCreate()))

    def room(self, name: str, size: int) -> int:
        """The address of at least so many bytes; what was there is lost if it has to grow.

        Raises:
            UserError: The GPU's memory is full.
        """
        address, capacity = self._buffers.get(name, (0, 0))
        if size > capacity or not address:
            if address:
                self._done(self._cuda.cudaFree(address))
                del self._buffers[name]
            address = int(self._done(self._cuda.cudaMalloc(max(size, 1))))
            self._buffers[name] = (address, size)
        return address

    def put(self, name: str, array: NDArray[Any]) -> int:
        """Copies an array [..] to the GPU and returns its address; the array must stay until the stream is idle."""
        address = self.room(name, array.nbytes)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._done(self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))
        return address

    def get(self, name: str, array: NDArray[Any]) -> None:
        """Fills an array from a buffer, once the stream is idle."""
        address, kind = self._buffers[name][0], self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._done(self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream))

    def wait(self) -> None:
        """Until the stream is idle: UserError if anything on it failed."""
        self._done(self._cuda.cudaStreamSynchronize(self.stream))

    def _done(self, answer: tuple[Any, ...]) -> Any:
        """What a call returned behind its error code."""
        error = answer[0]
        if error == self._cuda.cudaError_t.cudaSuccess:
            return answer[1] if len(answer) > 1 else None
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise UserError(f"the GPU's memory is full: {RELIEF}")
        raise UserError(f"the GPU reports {error.name}: {self._cuda.cudaGetErrorString(error)[1].decode()}")


def numpy_type(name: str) -> np.dtype[Any]:
    """TensorRT's word for an element type, such as "HALF" or "BF16", as NumPy's.

    Raises:
        UserError: NumPy needs ml-dtypes for it, or nothing holds it.
    """
    if name in PLAIN:
        return np.dtype(PLAIN[name])
    try:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, OTHERS[name]))
    except (ImportError, KeyError):
        raise UserError(f"NumPy has no type for {name} without ml-dtypes: pip install ml-dtypes") from None
    return found


PLAIN = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
OTHERS = {"BF16": "bfloat16", "FP8": "float8_e4m3fn"}
