"""Section 1: the kernels against their NumPy twins and against PyTorch, then beside what PyTorch offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugins import twins
from tools.gpu.cases import WIDTH, matrices, scores
from tools.gpu.compiled import Kernels
from tools.gpu.finding import Finding
from tools.gpu.speed import speeds

Array = NDArray[Any]
SECTION = "kernels"


def section(kernels: Kernels, device: str, cases: int, *, timed: bool) -> Iterator[Finding]:
    """Every kernel on so many random cases; times only where a device gives them."""
    yield _compared("Select", scores(cases), lambda case: _select(kernels, case, device))
    yield _compared("TokenSelect", scores(cases, seed=1), lambda case: _token_select(kernels, case, device))
    yield _compared("DiverseSelect", matrices(max(1, cases // 4)), lambda case: _diverse(kernels, case, device))
    if timed:
        yield from speeds(kernels, device)


def _compared(what: str, cases: Iterator[Any], check: Callable[[Any], str]) -> Finding:
    """All cases; the first that is wrong is told."""
    count, wrong = 0, list[str]()
    for case in cases:
        count += 1
        if why := check(case):
            wrong.append(f"{case}: {why}")
    detail = f"{count} cases equal twin and PyTorch" if not wrong else f"{len(wrong)} of {count} differ; {wrong[0]}"
    return Finding(SECTION, what, not wrong, detail, {"cases": count, "wrong": len(wrong)})


def _select(kernels: Kernels, case: Any, device: str) -> str:
    found = kernels.select(case.values.to(device), case.k).cpu()
    return _differs(found, twins.select(array(case.values), case.k), stable(case.values, case.k))


def _token_select(kernels: Kernels, case: Any, device: str) -> str:
    batch, n = case.values.shape
    tokens = torch.arange(batch * n * WIDTH).view(batch, n, WIDTH).to(case.values.dtype)
    kept, found = kernels.token_select(case.values.to(device), tokens.to(device), case.k)
    wanted = stable(case.values, case.k)
    rows = tokens.gather(1, wanted[..., None].expand(-1, -1, WIDTH))
    if why := _differs(found.cpu(), twins.select(array(case.values), case.k), wanted):
        return why
    same = torch.equal(kept.cpu().view(torch.uint8), rows.contiguous().view(torch.uint8))
    return "" if same else "the kept rows are not those of the indices"


def _diverse(kernels: Kernels, case: Any, device: str) -> str:
    found = kernels.diverse_select(case.values.to(device), case.start.to(device), case.k, case.form).cpu()
    return _differs(found, twins.diverse_select(array(case.values), array(case.start), case.k, case.form))


def _differs(found: Tensor, twin: Array, torchs: Tensor | None = None) -> str:
    if not np.array_equal(found.numpy(), twin):
        return "not what the twin says"
    return "" if torchs is None or torch.equal(found, torchs) else "not what PyTorch says"


def stable(values: Tensor, k: int) -> Tensor:
    """PyTorch's own answer: the first k of a stable sort, ascending."""
    return values.float().sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values


def array(values: Tensor) -> Array:
    """The same bits as NumPy has them."""
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return values.numpy()
