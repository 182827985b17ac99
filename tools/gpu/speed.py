"""Times of the kernels beside PyTorch's own ways, and the bandwidth that they reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.timing import spread
from tools.gpu.compiled import Kernels
from tools.gpu.finding import Finding

SIZES = ((1, 576, 64), (8, 576, 64), (1, 2880, 640), (8, 2880, 640))  # batch, tokens, kept
WIDTH = 4096  # of tokens
WARM, ROUNDS, LAUNCHES = 10, 50, 20  # launches in each round, so that a GPU does not wait for Python in between
Work = Callable[[], object]
Spread = dict[str, float]


def speeds(kernels: Kernels, device: str, rounds: int = ROUNDS) -> Iterator[Finding]:
    """Every kernel at every size, in turns with what it replaces."""
    for batch, n, k in SIZES:
        for name, ours, theirs, moved in _pairs(kernels, device, batch, n, k):
            yield _finding(f"{name} {batch} x {k} of {n}", measured(ours, theirs, device, rounds), moved)


def _pairs(kernels: Kernels, device: str, batch: int, n: int, k: int) -> Iterator[tuple[str, Work, Work, int]]:
    """A kernel, what it replaces, and the bytes that it must read and write."""
    draw = partial(torch.randn, generator=torch.Generator(device).manual_seed(0), device=device)
    scores, tokens, matrix = draw(batch, n).half(), draw(batch, n, WIDTH).half(), draw(batch, n, n)
    start = matrix.amin(1)
    yield "Select", partial(kernels.select, scores, k), partial(top, scores, k), scores.nbytes + 8 * batch * k
    both, moved = (scores, tokens, k), scores.nbytes + 2 * batch * k * WIDTH * tokens.element_size()
    yield "TokenSelect", partial(kernels.token_select, *both), partial(rows, *both), moved
    picks = partial(kernels.diverse_select, matrix, start, k, "max-min")
    yield "DiverseSelect", picks, partial(greedy, matrix, start, k), 4 * batch * k * n


def _finding(what: str, seconds: dict[str, Spread], moved: int) -> Finding:
    ours, theirs = seconds["ours"], seconds["PyTorch"]
    rate, gain = moved / ours["median"] / 1e9, theirs["median"] / ours["median"]
    detail = f"{_us(ours)}, PyTorch {_us(theirs)}: x{gain:.2f}; {rate:.1f} GB/s"
    return Finding("kernels, time", what, None, detail, {"seconds": seconds, "bytes": moved, "gbps": rate})


def _us(seconds: Spread) -> str:
    low, middle, high = (f"{seconds[key] * 1e6:.1f}" for key in ("min", "median", "max"))
    return f"{middle} µs ({low} to {high})"


def measured(ours: Work, theirs: Work, device: str, rounds: int) -> dict[str, Spread]:
    """Seconds of one launch of both, in turns, after a warm-up."""
    found: dict[str, list[float]] = {"ours": [], "PyTorch": []}
    once = _once_cuda if device.startswith("cuda") else _once_cpu
    for number in range(-min(WARM, rounds), rounds):
        for name, work in (("ours", ours), ("PyTorch", theirs)):
            seconds = once(work)
            if number >= 0:
                found[name].append(seconds)
    return {name: spread(values) for name, values in found.items()}


def _once_cuda(work: Work) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(LAUNCHES):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / LAUNCHES


def _once_cpu(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def top(scores: Tensor, k: int) -> Tensor:
    """The usual way."""
    return scores.topk(k, dim=1).indices.sort(dim=1).values


def rows(scores: Tensor, tokens: Tensor, k: int) -> Tensor:
    """The usual way."""
    return tokens.gather(1, top(scores, k)[..., None].expand(-1, -1, tokens.shape[2]))


def greedy(matrix: Tensor, start: Tensor, k: int) -> Tensor:
    """Max-min as the papers' code has it: a loop in Python."""
    seen, score, picks = torch.full_like(start, 1e38), start, []
    each = torch.arange(len(start), device=start.device)
    for _ in range(k):
        pick = score.argmax(1)
        picks.append(pick)
        seen = torch.minimum(seen, matrix[each, pick])
        seen[each, pick] = -1e38
        score = seen
    return torch.stack(picks, 1)
