"""Check a bundle again, later and elsewhere: every file's hash, then engines against the saved reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engines import contract, parity
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


def check_precision(bundle: Bundle, dtype: str) -> list[Row]:
    """Play the saved cases through the graphs of one precision on this machine."""
    folder = bundle.dir / "parity"
    with contract.wrong_entries_in_words(folder):
        cases, reference = parity.load(folder, dtype)
        found = parity.run(graphs(bundle, dtype), cases, folder)
        return parity.compare(found, reference, dtype)


def graphs(bundle: Bundle, dtype: str) -> Session:
    """The bundle's graphs of one precision in ONNX Runtime, whatever targets it was built for."""
    raw: dict[str, Any] = bundle.contract
    prompt = Prompt.of(bundle.dir, contract.parse(raw).geometry)
    load = engine("ort-cpu").load
    parts = {name: load(bundle.dir / part["files"][dtype]) for name, part in raw["parts"].items()}
    return Session(raw, parts, prompt, dtype)
