"""A stand-in for a GPU and for an engine on it, which runs on the CPU."""

import ctypes
import json
from types import SimpleNamespace

import numpy as np


class Cuda:
    """A GPU whose memory is this process's."""

    cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorMemoryAllocation=2)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, count=1, cc=(9, 0), name=b"NVIDIA H200", room=10**6):
        self.count, self.room, self.held, self.made = count, room, {}, 0
        self.found = SimpleNamespace(major=cc[0], minor=cc[1], name=name)

    def cudaGetDeviceCount(self):  # noqa: N802
        return (0, self.count) if self.count else (35, None)

    def cudaGetDeviceProperties(self, _):  # noqa: N802
        return 0, self.found

    def cudaStreamCreate(self):  # noqa: N802
        return 0, 7

    def cudaMalloc(self, size):  # noqa: N802
        if size > self.room:
            return 2, None
        block = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(block)] = block
        self.made += 1
        return 0, ctypes.addressof(block)

    def cudaFree(self, address):  # noqa: N802
        del self.held[address]
        return (0,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):  # noqa: N802
        assert stream == 7
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return (0,)


class Engine:
    """y = 2 x over [N, 2] fp16, for N of 1 to 2 or of 4 to 8, and the rows that are not zero."""

    num_io_tensors, num_optimization_profiles, streamable_weights_size = 3, 2, 0
    names = ("x", "y", "rows")
    types = {"x": "HALF", "y": "HALF", "rows": "INT64"}  # noqa: RUF012
    ranges = (((1, 2), (2, 2), (2, 2)), ((4, 2), (4, 2), (8, 2)))

    def __init__(self, fake):
        self.fake = fake

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return self.fake.TensorIOMode.INPUT if name == "x" else self.fake.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.types[name])

    def get_tensor_shape(self, name):
        return (-1, 2)

    def get_tensor_location(self, name):
        return self.fake.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name, profile):
        return self.ranges[profile]

    def create_execution_context(self):
        return Context(self.fake)

    def create_engine_inspector(self):
        told = {"Layers": [{"Name": "only", "LayerType": "gemm"}]}
        return SimpleNamespace(get_engine_information=lambda form: json.dumps(told))


class Context:
    def __init__(self, fake):
        self.fake, self.addresses, self.sinks = fake, {}, {}

    def set_optimization_profile_async(self, profile, stream):
        return self.fake.note("profile", profile)

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def get_tensor_shape(self, name):
        return (-1,) if name == "rows" else self.shape

    def set_output_allocator(self, name, sink):
        self.sinks[name] = sink

    def execute_async_v3(self, stream):
        size = int(np.prod(self.shape))
        x, y = (np.frombuffer((ctypes.c_char * (2 * size)).from_address(self.addresses[n]), np.float16) for n in "xy")
        y[:] = 2 * x
        found = np.flatnonzero(x.reshape(self.shape).any(1))
        address = self.sinks["rows"].reallocate_output_async("rows", 0, found.nbytes, 256, stream)
        ctypes.memmove(address, found.ctypes.data, found.nbytes)
        self.sinks["rows"].notify_shape("rows", found.shape)
        return self.fake.note("execute")
