"""An engine as a function over named arrays: shape ranges, memory and a context, kept between calls."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from engines.feeds import check_feeds
from engines.registry import Arrays
from engines.trt.cuda import Memory, numpy_type
from engines.trt.native import Native
from engines.trt.words import one_line


class Plan:
    """A runner; one call at a time.

    Args:
        trt: "tensorrt" or "tensorrt_rtx", imported.
        engine: What that read from a plan.
        logger: Where it complains.
        path: The plan, for errors.

    Raises:
        UserError: The GPU has no room for it, or NumPy no type for what it takes.
    """

    def __init__(self, trt: Native, engine: Native, logger: Native, path: Path) -> None:
        self._trt, self._engine, self._logger, self._path = trt, engine, logger, path
        self._memory, self._profile = Memory(), 0
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._types = {name: numpy_type(engine.get_tensor_dtype(name).name) for name in names}
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in inputs]
        shapes = {name: [None if size < 0 else size for size in engine.get_tensor_shape(name)] for name in inputs}
        self._wanted = {name: (self._types[name], shape) for name, shape in shapes.items()}
        self._dynamic = [name for name, shape in shapes.items() if None in shape]
        self._context = engine.create_execution_context()
        if self._context is None:
            raise UserError(f"{path}: the GPU has no room for it: {one_line(logger.first)}")
        self._sinks = {name: _sink(trt, self._memory) for name in self._outputs}

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Runs it.

        Raises:
            UserError: Arrays that the plan does not take, shapes that none of its profiles covers, or a failure.
        """
        check_feeds(self._wanted, feeds)
        given = {name: np.ascontiguousarray(feeds[name]) for name in self._wanted}
        self._choose(given)
        for name, array in given.items():
            self._feed(name, array)
        shapes = {name: self._prepare(name) for name in self._outputs}
        if not self._context.execute_async_v3(self._memory.stream):
            raise UserError(f"{self._path}: the run failed: {one_line(self._logger.first)}")
        self._memory.wait()
        sizes = {
            name: shape if min(shape, default=0) >= 0 else self._sinks[name].shape for name, shape in shapes.items()
        }
        found = {name: np.empty(size, self._types[name]) for name, size in sizes.items()}
        for name, array in found.items():
            self._memory.get(name, array)
        self._memory.wait()
        return found

    def _choose(self, given: Arrays) -> None:
        """Makes the first profile that covers the shapes the current one."""
        ranges = [self._ranges(profile) for profile in range(self._engine.num_optimization_profiles)]
        fitting = (number for number, covered in enumerate(ranges) if _covers(covered, given))
        profile = next(fitting, None)
        if profile is None:
            raise UserError(f"{self._path}: {self._uncovered(ranges, given)}")
        if profile != self._profile:
            self._context.set_optimization_profile_async(profile, self._memory.stream)
            self._memory.wait()
            self._profile = profile

    def _ranges(self, profile: int) -> dict[str, tuple[list[int], list[int]]]:
        """The smallest and the largest shape of each dynamic input."""
        found = {name: self._engine.get_tensor_profile_shape(name, profile) for name in self._dynamic}
        return {name: (list(low), list(high)) for name, (low, _, high) in found.items()}

    def _uncovered(self, ranges: list[dict[str, tuple[list[int], list[int]]]], given: Arrays) -> str:
        """One input that stands out, and what each profile would take."""
        name = next(n for n in self._dynamic if not all(_covers({n: covered[n]}, given) for covered in ranges))
        known = " or ".join(f"{_x(covered[name][0])}..{_x(covered[name][1])}" for covered in ranges)
        return f"no profile covers '{name}' of {_x(given[name].shape)}: it takes {known}; build it with larger limits"

    def _feed(self, name: str, array: NDArray[Any]) -> None:
        if name in self._dynamic and not self._context.set_input_shape(name, array.shape):
            raise UserError(f"{self._path}: input '{name}' cannot be {_x(array.shape)}: {one_line(self._logger.first)}")
        host = self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST
        self._context.set_tensor_address(name, array.ctypes.data if host else self._memory.put(name, array))

    def _prepare(self, name: str) -> tuple[int, ...]:
        """Gives an output its memory; where its size depends on the data, it is found while the plan runs."""
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            self._context.set_output_allocator(name, self._sinks[name])
        else:
            size = int(np.prod(shape)) * self._types[name].itemsize
            self._context.set_tensor_address(name, self._memory.room(name, size))
        return shape


def _covers(ranges: dict[str, tuple[list[int], list[int]]], given: Arrays) -> bool:
    pairs = ((given[name].shape, low, high) for name, (low, high) in ranges.items())
    return all(a <= size <= b for shape, low, high in pairs for a, size, b in zip(low, shape, high, strict=True))


def _x(shape: Any) -> str:
    return "x".join(map(str, shape))


def _sink(trt: Native, memory: Memory) -> Native:
    """Takes an output whose size is known only when it is there."""

    class Sink(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, tensor_name: str, _memory: int, size: int, *_: int) -> int:
            return room(tensor_name, size)

        reallocate_output_async = reallocate_output  # what newer versions call

        def notify_shape(self, tensor_name: str, shape: Any) -> None:  # noqa: ARG002
            self.shape = tuple(shape)

    room = memory.room
    return Sink()
