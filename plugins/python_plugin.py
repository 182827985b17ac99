"""What each operator tells a TensorRT builder, and what it computes, on the host, if an engine asks it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugins import twins
from plugins.driver import download, upload

Native = Any  # what TensorRT hands out has no types
Array = NDArray[Any]
Tell = Callable[[str], None]


class Behaviour:
    """The methods of IPluginV3 for all three operators; `plugin_class` adds TensorRT's base classes.

    Outputs: [kept rows,] indices int64 [, how many of them, int32, where that is data].
    """

    module: Native
    tell: Tell

    def __init__(self, operator: str, k: int, form: str = "", dynamic: int = 0) -> None:
        natives: tuple[Native, ...] = type(self).__bases__[1:]
        for native in natives:
            native.__init__(self)
        self.settings = (operator, k, form, dynamic)
        self.k, self.form, self.dynamic, self.rows = k, form, bool(dynamic), operator == "TokenSelect"
        self.plugin_name, self.plugin_namespace, self.plugin_version = operator, "tp.export", "1"
        self.num_outputs = 1 + self.rows + self.dynamic
        self.numbers = {name: np.array([number], np.int32) for name, number in {"k": k, "dynamic": dynamic}.items()}
        self.letters = np.frombuffer(form.encode(), np.int8)

    def get_capability_interface(self, _kind: Native) -> Native:
        """One object is all of it."""
        return self

    def clone(self) -> Native:
        """An equal one."""
        return type(self)(*self.settings)

    def attach_to_context(self, _context: Native) -> Native:
        """One for each context."""
        return self.clone()

    def get_output_data_types(self, types: Sequence[Native]) -> list[Native]:
        """Rows keep the tokens' type."""
        return [*types[1 : 1 + self.rows]] + [self.module.int64] + [self.module.int32] * self.dynamic

    def get_output_shapes(self, inputs: Sequence[Native], _shapes: Sequence[Native], of: Native) -> list[Native]:
        """`k` of each row or, where the count is data, what a size tensor says: at most `k`."""
        self.tell(f"{self.plugin_name} shapes")
        k = of.constant(self.k)
        if self.dynamic:
            k = of.declare_size_tensor(self.num_outputs - 1, of.constant((self.k + 1) // 2), k)
        scores = inputs[1 if self.form else 0]
        indices = [*(scores[axis] for axis in range(len(scores) - 1)), k]
        kept = [[*indices, *(inputs[1][axis] for axis in range(len(scores), len(inputs[1])))]] if self.rows else []
        sizes = [self.module.DimsExprs(0)] * self.dynamic
        return [*(self.module.DimsExprs(each) for each in (*kept, indices)), *sizes]

    def supports_format_combination(self, place: int, ports: Sequence[Native], inputs: int) -> bool:
        """Rows without gaps; any float, but fp32 for a search."""
        module, kinds = self.module, [port.desc.type for port in ports[: place + 1]]
        floats = (module.float32,) if self.form else (module.float32, module.float16, module.bfloat16)
        if place >= inputs:
            fits = kinds[place] == self.get_output_data_types(kinds)[place - inputs]
        else:
            fits = kinds[place] == module.int64 if self.dynamic and place == inputs - 1 else kinds[place] in floats
        return bool(fits and ports[place].desc.format == module.TensorFormat.LINEAR)

    def configure_plugin(self, _inputs: Sequence[Native], _outputs: Sequence[Native]) -> None:
        """Nothing depends on the shapes."""
        self.tell(f"{self.plugin_name} configured")

    def on_shape_change(self, _inputs: Sequence[Native], _outputs: Sequence[Native]) -> None:
        """Nothing depends on them when it runs, either."""

    def set_tactic(self, _tactic: int) -> None:
        """There is but one; a builder that finds no such method gives up."""

    def get_fields_to_serialize(self) -> Native:
        """The attributes, for a creator to read; TensorRT reads the arrays after the call."""
        field, kinds = self.module.PluginField, self.module.PluginFieldType
        told = [field(name, array, kinds.INT32) for name, array in self.numbers.items()]
        text = [field("form", self.letters, kinds.CHAR)] if self.form else []
        return self.module.PluginFieldCollection(told + text)

    def enqueue(
        self, ports: Any, _results: Any, inputs: Sequence[int], outputs: Sequence[int], _space: int, stream: int
    ) -> None:
        """The NumPy twin on copies; RuntimeError where no GPU is."""
        read = [
            download(at, tuple(port.dims), self._dtype(port), stream) for at, port in zip(inputs, ports, strict=True)
        ]
        for at, array in zip(outputs, self.computed(read), strict=True):
            upload(at, array, stream)

    def computed(self, read: Sequence[Array]) -> list[Array]:
        """Every output, as arrays, of every input."""
        count = int(read[-1][0]) if self.dynamic else self.k
        made: Sequence[Array]
        if self.form:
            made = [twins.diverse_select(read[0], read[1], count, self.form)]
        else:
            made = twins.token_select(read[0], read[1], count) if self.rows else [twins.select(read[0], count)]
        return [*made, np.array(count, np.int32)] if self.dynamic else [*made]

    def _dtype(self, port: Native) -> Any:
        """NumPy's name for a port's type; bfloat16 needs a package that has it."""
        if port.type == self.module.bfloat16:
            import ml_dtypes

            return ml_dtypes.bfloat16
        return self.module.nptype(port.type)


def plugin_class(module: Native, tell: Tell) -> type[Native]:
    """The operators' class over the base classes of `tensorrt` or `tensorrt_rtx`; `tell` gets every call."""
    bases = (module.IPluginV3, module.IPluginV3OneCore, module.IPluginV3OneBuild, module.IPluginV3OneRuntime)
    return type("Plugin", (Behaviour, *bases), {"module": module, "tell": staticmethod(tell)})
