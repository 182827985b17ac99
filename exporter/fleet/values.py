"""Values of a TOML file against what a dataclass says of its fields."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from engines.errors import UserError
from exporter.section import Section, shown

Hints = Mapping[str, Any]
WORDS = {int: "a whole number", str: "a text", bool: "true or false", float: "a number", dict: "a table"}


def hints_of(kind: type, leave_out: frozenset[str] = frozenset()) -> Hints:
    """The types of a dataclass's fields, by name."""
    return {name: hint for name, hint in get_type_hints(kind).items() if name not in leave_out}


def table(section: Section, hints: Hints) -> dict[str, Any]:
    """Every entry of a table, converted.

    Raises:
        UserError: the table is none, a key is unknown, or a value is of another type; it names the place.
    """
    if not isinstance(section.values, dict):
        raise UserError(f"{section.path}: {section.name} is {shown(section.values)}, not a table")
    for key in section.values:
        if key not in hints:
            raise section.wrong(key, f"is not known; there are: {', '.join(hints)}")
    return {key: one(section, key, hints[key]) for key in section.values}


def one(section: Section, key: str, hint: Any) -> Any:
    """One value, lists as tuples.

    Raises:
        UserError: it is of another type.
    """
    found = section.get(key)
    if not _is(found, hint):
        raise section.wrong(key, f"is {shown(found)}, not {_words(hint)}")
    return tuple(found) if isinstance(found, list) else found


def _kinds(hint: Any) -> list[Any]:
    """The alternatives of a type, without None: a key that is absent says that."""
    alternatives = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [kind for kind in alternatives if kind is not type(None)]


def _is(value: object, hint: Any) -> bool:
    return any(_is_one(value, kind) for kind in _kinds(hint))


def _is_one(value: object, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(allowed) and value == allowed for allowed in inner)
    if origin is tuple:
        return isinstance(value, list) and all(_is(each, inner[0]) for each in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_is(each, inner[1]) for each in value.values())
    return type(value) is kind or (kind is float and type(value) is int)


def _words(hint: Any) -> str:
    return " or ".join(map(_word, _kinds(hint)))


def _word(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        return f"a list, each {_words(inner[0])}"
    return WORDS[kind] if kind in WORDS else f"a table, each value {_words(inner[1])}"
