"""The three operators as Python plugins: a builder without a GPU sees their types, their shapes, and swaps them in.

They are here to prove that. What is deployed is the library: a plan with these runs in a Python process only, and
every input is copied to the host and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from plugins.python_plugin import Native, Tell, plugin_class
from plugins.shim import preload

DOMAIN, VERSION = "tp.export", "1"
FIELDS: Mapping[str, tuple[str, ...]] = {
    "Select": ("k", "dynamic"),
    "TokenSelect": ("k", "dynamic"),
    "DiverseSelect": ("k", "form", "dynamic"),
}
_KEPT: list[Native] = []  # a registry does not own its creators


def register(module: ModuleType, tell: Tell | None = None) -> None:
    """Put creators of the operators into the registry of `tensorrt` or `tensorrt_rtx`; `tell` gets every call.

    An operator that is there already, such as a loaded library's, stays what it is.
    """
    preload(module)
    registry = module.get_plugin_registry()
    known = {(each.name, each.plugin_namespace) for each in registry.all_creators}
    for operator in FIELDS:
        if (operator, DOMAIN) not in known:  # to ask for a creator that is not there is an error
            _KEPT.append(_creator(module, operator, tell or _silent))
            registry.register_creator(_KEPT[-1], DOMAIN)


def _silent(_: str) -> None:
    pass


def _creator(module: Native, operator: str, tell: Tell) -> Native:
    plugin, kinds = plugin_class(module, tell), {"form": module.PluginFieldType.CHAR}

    class Creator(module.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.name, self.plugin_namespace, self.plugin_version = operator, DOMAIN, VERSION
            whole = module.PluginFieldType.INT32
            fields = [module.PluginField(name, np.array([]), kinds.get(name, whole)) for name in FIELDS[operator]]
            self.field_names = module.PluginFieldCollection(fields)

        def create_plugin(self, _name: str, fields: Sequence[Native], _phase: Native) -> Native:
            tell(f"{operator} created")
            return plugin(operator, **{field.name: _value(field) for field in fields})

    return Creator()


def _value(field: Native) -> int | str:
    """A number, or the text that bytes are."""
    data = np.ravel(np.asarray(field.data))
    return data.tobytes().decode().strip("\0") if field.name == "form" else int(data[0])
