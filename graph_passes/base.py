"""What a pass returns: how often it rewrote, and where it refused and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class PassResult:
    """The honest report of one pass over one graph (changed in place)."""

    rewrites: int = 0
    refusals: tuple[str, ...] = ()

    @property
    def modified(self) -> bool:
        """Whether the graph is another one now."""
        return self.rewrites > 0


Pass = Callable[[ir.Model], PassResult]
