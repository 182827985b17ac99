"""Methods and families by name: a new one is one new file, found by looking."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from engines.errors import UserError
from exporter import methods, models
from exporter.chain import Chain
from exporter.family import Family
from exporter.reducer import Reducer
from exporter.section import shown


def method_names() -> list[str]:
    """Every method, as `--method` takes it."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(methods.__path__))


def method_class(name: str) -> type[Reducer]:
    """The reducer class behind `--method NAME`.

    Raises:
        UserError: unknown name; the nearest are listed.
    """
    known = method_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
        raise UserError(f"--method {name}: no such method; {hint} (tp-export methods lists all)")
    found = importlib.import_module(f"exporter.methods.{name.replace('-', '_')}").METHOD
    assert isinstance(found, type)
    assert issubclass(found, Reducer)
    return found


def method(name: str, params: Mapping[str, str] | None = None) -> Reducer:
    """A reducer with the authors' parameters, except those given as text; `A:KEEP+B:KEEP` is two of them.

    Of two methods, `b.NAME` is a parameter of method b; `NAME` alone belongs to the one that has it.

    Raises:
        UserError: unknown method or parameter, or a value of the wrong kind.
    """
    if "+" not in name:
        return _single(name, dict(params or {}))
    pairs = [each.partition(":") for each in name.split("+")]
    if len(pairs) != 2 or not all(method and keep for method, _, keep in pairs):
        raise UserError(f"--method {name}: write two methods with their budgets, such as fastervlm:128+fastv:64")
    (first, _, keep), (second, _, rest) = pairs
    shared = _shared(first, second, dict(params or {}))
    return Chain(_single(first, shared[0]), keep, _single(second, shared[1]), rest)


def _shared(first: str, second: str, params: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Whose parameter each is: `NAME.parameter`, or the only one that has it."""
    own: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for key, value in params.items():
        which, dot, bare = key.partition(".")
        if dot and which in {first, second}:
            own[which != first][bare] = value
        else:
            own[key not in {field.name for field in fields(method_class(first))}][key] = value
    return own


def _single(name: str, given: dict[str, str]) -> Reducer:
    found = method_class(name)
    defaults: dict[str, Any] = {field.name: field.default for field in fields(found) if field.init}
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        allowed = ", ".join(defaults) or "none"
        raise UserError(f"--param {unknown[0]}: {name} has no such parameter; it has: {allowed}")
    try:
        return found(**{key: _like(defaults[key], text) for key, text in given.items()})
    except ValueError as error:
        raise UserError(f"--param: {name} cannot take {given}: {error}") from error


def _like(default: object, text: str) -> bool | float | str:
    """A parameter's text as the kind that its default is; without a default, a number if it reads as one."""
    if isinstance(default, bool):
        if text.lower() not in {"true", "false"}:
            raise ValueError(f"{text} is neither true nor false")
        return text.lower() == "true"
    for kind in (int, float):
        if isinstance(default, kind) or (default is None and _reads_as(kind, text)):
            return kind(text)
    return text


def _reads_as(kind: type[float], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def families() -> list[type[Family]]:
    """Every family."""
    found = [importlib.import_module(f"exporter.models.{m.name}").FAMILY for m in pkgutil.iter_modules(models.__path__)]
    assert all(isinstance(each, type) and issubclass(each, Family) for each in found)
    return found


def family(config: Mapping[str, Any], where: str) -> type[Family]:
    """The family that exports checkpoints with this config.

    Raises:
        UserError: no family names one of the config's architectures; the supported ones are listed.
    """
    found = families()
    named = config.get("architectures")
    for candidate in found:
        if isinstance(named, list) and any(name in named for name in candidate.architectures):
            return candidate
    supported = ", ".join(sorted(name for candidate in found for name in candidate.architectures))
    raise UserError(
        f"{where}/config.json: architectures is {shown(named)}, which is not supported; supported: [{supported}]"
    )
