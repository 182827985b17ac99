"""Parity of the vision parts alone, for models whose decoder is too large for this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from engines.parity import Case, Run, opened
from engines.registry import Arrays, Runner
from engines.session import Session

DECODER = ("decoder", "prefill", "decode", "evict")


def only_vision(parts: Iterable[str], load: Callable[[str], Runner]) -> dict[str, Runner]:
    """Loads all parts but the decoder's, which refuse to run."""
    return {name: _absent(name) if name.partition(".")[0] in DECODER else load(name) for name in parts}


def glance(session: Session, cases: Sequence[Case], folder: Path) -> Run:
    """Every case's picture through the engines; nothing is said to it."""
    pictures = [opened(session, case, folder) for case in cases]
    seen = session.see(pictures, [case.ids for case in cases], [case.question for case in cases])
    return Run(
        forms=[each["form"] for each in seen],
        kept=[each["kept_indices"] for each in seen],
        embeds=[each["image_embeds"].astype(np.float32) for each in seen],
        logits=[],
        tokens=[[] for _ in cases],
        cuts=[{} for _ in cases],
        buckets=[0 for _ in cases],
    )


def _absent(name: str) -> Runner:
    def refuse(feeds: Arrays) -> dict[str, NDArray[Any]]:
        raise UserError(f"part '{name}' was not loaded: this compares the vision parts alone, not {sorted(feeds)}")

    return refuse
