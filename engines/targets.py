"""Which files a target's engines are, as bundle.json says it."""

from collections.abc import Mapping
from typing import Any

from engines.contract import wrong_entries_in_words
from engines.errors import UserError
from engines.registry import engine, names


def engine_files(raw: Mapping[str, Any], target: str, dtype: str | None) -> tuple[str, dict[str, str]]:
    """Finds the files of a target's engines.

    Args:
        raw: bundle.json's content.
        target: One of the bundle's targets.
        dtype: "fp32", "fp16" …; None for the one that the target's engines were built in.

    Returns:
        The precision, and the file name of each part.

    Raises:
        UserError: The bundle has no such engines.
    """
    with wrong_entries_in_words("bundle.json"):
        if target in names() and engine(target).extension == ".onnx":  # its engines are the graphs, always there
            return _graphs(raw["parts"], dtype or "fp32")
        if target not in raw["engines"]:
            raise UserError(f"the bundle has no engines for {target}; it has {', '.join(raw['engines'])}")
        built = raw["engines"][target]
        if dtype in {None, built["dtype"]}:
            return str(built["dtype"]), dict(built["files"])
        raise UserError(f"the engines for {target} are {built['dtype']}, not {dtype}; build them in {dtype}")


def _graphs(parts: Mapping[str, Any], dtype: str) -> tuple[str, dict[str, str]]:
    if any(dtype not in part["files"] for part in parts.values()):
        raise UserError(f"the bundle has no {dtype} files: export it with a target or --dtype that computes in {dtype}")
    return dtype, {name: part["files"][dtype] for name, part in parts.items()}
