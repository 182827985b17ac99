"""Check a bundle again, later and elsewhere: every file's hash, then engines against the saved reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engines import contract, glance, parity
from engines.bundle import Bundle, verify
from engines.parity import Row
from engines.prompt import Prompt
from engines.registry import engine
from engines.session import Session


def check(bundle: Bundle) -> Iterator[tuple[str, list[Row]]]:
    """Compare every precision that has a saved reference, after hashing every file.

    Yields:
        The precision and its rows.

    Raises:
        UserError: a file is not what was exported, or ONNX Runtime refuses a graph.
    """
    verify(bundle, full=True)
    for name in sorted(bundle.contract["files"], key=lambda name: (".fp32." not in name, name)):
        if name.startswith("parity/reference.") and name.endswith(".safetensors"):
            dtype = name.split(".")[1]
            yield dtype, check_precision(bundle, dtype)


def mode(bundle: Bundle) -> str:
    """How much was compared when the bundle was made: full, vision, none."""
    found = bundle.contract["recipe"].get("parity")
    return found if found in parity.LEFT_OUT else "full"


def check_precision(bundle: Bundle, dtype: str) -> list[Row]:
    """Play the saved cases through the graphs of one precision on this machine."""
    folder = bundle.dir / "parity"
    with contract.wrong_entries_in_words(folder):
        cases, reference = parity.load(folder, dtype)
        play = glance.glance if mode(bundle) == "vision" else parity.run
        found = play(graphs(bundle, dtype), cases, folder)
        return parity.compare(found, reference, dtype)


def graphs(bundle: Bundle, dtype: str) -> Session:
    """The bundle's graphs of one precision, or what was compared of them, in ONNX Runtime, whatever its targets."""
    raw: dict[str, Any] = bundle.contract
    prompt = Prompt.of(bundle.dir, contract.parse(raw).geometry)
    backend, files = engine("ort-cpu"), {name: bundle.dir / part["files"][dtype] for name, part in raw["parts"].items()}
    if mode(bundle) == "vision":
        return Session(raw, glance.only_vision(files, lambda name: backend.load(files[name])), prompt, dtype)
    return Session(raw, {name: backend.load(file) for name, file in files.items()}, prompt, dtype)
