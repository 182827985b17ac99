"""Engines in a bundle: which one is meant, which files it has, whether it can run here."""

import re
from collections.abc import Mapping
from typing import Any

from engines.contract import wrong_entries_in_words
from engines.errors import UserError
from engines.registry import Engine, engine, names
from engines.settings import Settings

OPTIONS = {  # of the command line, by what they set
    "refittable": "--refittable",
    "version_compatible": "--version-compatible",
    "hardware": "--hardware-compatible",
    "weight_streaming": "--weight-streaming",
    "level": "--level",
    "workspace_mib": "--workspace",
    "plugin": "--plugin",
}


def engine_label(raw: Mapping[str, Any], target: str) -> str:
    """The label of the engines that are meant.

    Args:
        raw: bundle.json's content.
        target: A label ("trt-rtx-sm89"), the same as a target ("trt-rtx:sm89"), or a target's name if that is enough.

    Raises:
        UserError: The bundle has no such engines, or several.
    """
    known: Mapping[str, Any] = raw["engines"]
    label = re.sub("[:,]", "-", target)
    if label in known or is_graphs(target):
        return label
    found = [each for each, entry in known.items() if entry["target"] == target]
    if len(found) > 1:
        raise UserError(f"the bundle has several engines for {target}: name one of {', '.join(found)}")
    if not found:
        raise UserError(f"the bundle has no engines for {target}; it has {', '.join(known)}")
    return found[0]


def engine_entry(raw: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """What bundle.json says of the engines that are meant; graphs that are engines need not be in it."""
    with wrong_entries_in_words("bundle.json"):
        found: Mapping[str, Any] = raw["engines"].get(engine_label(raw, target), {"target": target})
        return found


def engine_files(raw: Mapping[str, Any], target: str, dtype: str | None) -> tuple[str, dict[str, str]]:
    """Finds the files of engines.

    Args:
        raw: bundle.json's content.
        target: As for `engine_label`.
        dtype: "fp32", "fp16" …; None for the one that the engines were built in.

    Returns:
        The precision, and the file name of each part.

    Raises:
        UserError: The bundle has no such engines.
    """
    with wrong_entries_in_words("bundle.json"):
        if is_graphs(target):
            return _graphs(raw["parts"], dtype or "fp32")
        label = engine_label(raw, target)
        built = raw["engines"][label]
        if dtype in {None, built["dtype"]}:
            return str(built["dtype"]), dict(built["files"])
        raise UserError(f"the engines for {label} are {built['dtype']}, not {dtype}; build them in {dtype}")


def is_graphs(target: str) -> bool:
    """Whether a target's engines are the published graphs, which are always there."""
    return target in names() and engine(target).extension == ".onnx"


def check_here(backend: Engine, entry: Mapping[str, Any]) -> None:
    """Raises UserError where a bundle's engines cannot run on this machine, as far as their backend can tell."""
    getattr(backend, "fits", lambda _: None)(entry)


def check_settings(target: str, settings: Settings) -> None:
    """Raises UserError for a setting that a target's builder does not honour, named as the option that it is."""
    honoured: frozenset[str] = getattr(engine(target), "settings", frozenset())
    if odd := [name for name in settings.chosen() if name not in honoured]:
        reason = "builds no plan" if is_graphs(target) else "cannot be built so"
        raise UserError(f"target {target} {reason}: drop {', '.join(OPTIONS[name] for name in odd)}")


def _graphs(parts: Mapping[str, Any], dtype: str) -> tuple[str, dict[str, str]]:
    if any(dtype not in part["files"] for part in parts.values()):
        raise UserError(f"the bundle has no {dtype} files: export it with a target or --dtype that computes in {dtype}")
    return dtype, {name: part["files"][dtype] for name, part in parts.items()}
