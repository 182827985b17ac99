"""JSON from files that strangers wrote."""

import json
from pathlib import Path
from typing import Any

from engines.errors import UserError

LARGEST = 64 * 2**20
DEEPEST = 64  # levels; those who walk through the value recurse


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: the file cannot be read, is too large, is not UTF-8 or not JSON, or is nested too deeply.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} has no file {path.name}")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > LARGEST:
        raise UserError(f"{path} is too large ({path.stat().st_size} bytes)")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    if _deep(value):
        raise UserError(f"{path} is nested more than {DEEPEST} levels deep")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: as `read_json`, or the value is something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def _deep(value: object) -> bool:
    """Whether a value has more levels than anyone needs."""
    level = [value]
    for _ in range(DEEPEST):
        level = [child for parent in level for child in _children(parent)]
    return bool(level)


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
