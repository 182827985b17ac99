"""Whether a Ray cluster answers at an address."""

from __future__ import annotations

import time
from typing import Any

from engines.child import Child
from engines.errors import UserError
from exporter.cache import base

ANSWER_S = 30  # for a cluster to answer; by itself Ray tries for minutes
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def reach(address: str) -> None:
    """Raises UserError unless a cluster answers within ANSWER_S; asked in a child, since Ray may end its process."""
    child = Child(f"{__name__}:nodes", {"address": address}, f"--ray {address}", base() / "logs" / "ray.log")
    start = time.perf_counter()
    while not child.done() and time.perf_counter() - start < ANSWER_S:
        time.sleep(0.1)
    if not child.done():
        child.kill()
        raise UserError(
            f"--ray {address}: no cluster answers there within {ANSWER_S} s: start one with ray start --head"
        )
    child.result()


def nodes(address: str) -> dict[str, Any]:
    """How many nodes a cluster has."""
    import ray

    try:
        ray.init(address=address, **QUIET)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(first_line(error)) from error
    return {"nodes": len(ray.nodes())}


def first_line(error: BaseException) -> str:
    """What an error says, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
