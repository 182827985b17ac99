"""Two precisions at once: a child process traces one into the cache while this process traces the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.child import run_in_child
from engines.errors import UserError
from exporter.build_parts import Tracer
from exporter.cache import base
from exporter.draft import Draft
from exporter.progress import Reporter
from exporter.recipe import Recipe

DEEP = 16  # decoder layers from which on a process of its own pays for its start


@contextmanager
def ahead(draft: Draft, shards: Path) -> Iterator[None]:
    """While the block runs, another process traces the export's second precision, where there is one and a CPU for it.

    Whoever traces it afterwards finds it in the cache. What the child cannot trace is traced, and told, by its parent.
    """
    more = draft.precisions[1:]
    if not more or draft.facts.layers < DEEP or (os.cpu_count() or 1) < 2:
        yield
        return
    kwargs = {"recipe": asdict(draft.recipe), "dtype": more[0], "shards": str(shards)}
    what, log = f"tracing in {more[0]}", base() / "logs" / f"trace-{more[0]}.log"
    with ThreadPoolExecutor(1) as pool:
        traced = pool.submit(run_in_child, f"{__name__}:trace_here", kwargs, what, log)
        yield
        with suppress(UserError):
            traced.result()


def trace_here(recipe: Mapping[str, Any], dtype: str, shards: str) -> dict[str, Any]:
    """Trace all parts in one precision; runs in the child. Returns their number of nodes."""
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()}
    built = Tracer(Draft.of(Recipe(**known)), dtype, Path(shards)).all(Reporter(Console(quiet=True), 0))
    return {name: part.node_count for name, part in built.items()}
