"""Vectors of A2SF: the present code on one layer, the earlier cache over several calls, the paper's masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from exporter.attention import Tape, fused
from exporter.budget import Budget
from exporter.caches import Cached
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.forgetting import simulated
from exporter.methods.a2sf import A2SF
from exporter.reducer import QKV, Grid, Selection, Shape, Stage
from exporter.sequence import Sequence
from exporter.stack import Block, Rope, Stack, Walk
from tools.golden import Arrays, Check
from tools.goldens.decoders import config


def checks(case: Arrays) -> Iterator[Check]:
    """Scores, kept places, output and cache of a prompt; kept places and scores of all calls; all masks."""
    yield _prompt(case)
    yield _recurrent(case)
    yield _masks(case)


def _prompt(case: Arrays) -> Check:
    own = config(case)["head"]
    reducer = A2SF(alpha=own["forgetting_factor"], recent=own["recent_budget"])
    length, scale = case["head_q"].shape[2], case["head_q"].shape[3] ** -0.5
    shape = Shape(length, Grid(1, length), heads=own["num_heads"], kv_heads=own["num_kv_heads"])
    stages = reducer.plan(shape, Budget(str(own["total_budget"])))
    future = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Mapping[str, Tensor]:
        seen = Seen(qkv={True: QKV(q, k, v)}, scale=scale, mask=future)
        taps = EagerTaps((0,), length, length, {0: seen}, shape, batch=q.shape[0])
        kept = reducer.select(taps, stages[0]).indices
        assert kept is not None
        out, cached = _layer(q, k, v, scale, reducer, stages, shape)
        return {
            "head_scores": reducer.scores(taps, 0),
            "head_selected": kept,
            "head_out": out,
            "k": cached.key,
            "v": cached.value,
        }

    names = [f"head_{name}" for name in "qkv"]
    caches = {n: np.take_along_axis(case[f"head_{n}"], case["head_selected"][..., None], 2) for n in "kv"}
    want = {name: case[name] for name in ("head_scores", "head_selected", "head_out")}
    return Check("prompt", run, [torch.from_numpy(case[name]) for name in names], want | caches)


def _layer(
    q: Tensor, k: Tensor, v: Tensor, scale: float, reducer: A2SF, stages: tuple[Stage, ...], shape: Shape
) -> tuple[Tensor, Cached]:
    """One layer that is nothing but attention, as a prompt walks through it: `[B,H,S,d]` and what is cached."""
    batch, heads, length, width = q.shape

    def attention(_: Tensor, mask: Tensor | None, __: Rope | None, tape: Tape) -> Tensor:
        return fused(torch.nn.Module(), q, k, v, mask, scale, tape)[0].flatten(2)

    block = Block(lambda x: x, attention, lambda x: x, torch.zeros_like)
    every = torch.arange(length).expand(batch, -1)
    start = Sequence(torch.zeros(batch, length, heads * width), 0, length, every[:, None], every >= 0)
    walk = Walk(Stack("decoder", (block,)), reducer, stages, shape, start)
    out = walk.run(1).hidden.reshape(batch, length, heads, width).transpose(1, 2)
    return out, walk.caches[0]


def _recurrent(case: Arrays) -> Check:
    own = config(case)["rec"]
    recent, streaming = own["recent_budget"], own["streaming_budget"]
    reducer = A2SF("recurrent", alpha=own["forgetting_factor"], recent=recent, streaming=streaming)
    heads, length = case["rec_prefill_probs"].shape[1:3]
    keep = streaming + own["select_budget"] + recent
    shape = Shape(length, Grid(1, length), heads=heads, kv_heads=heads)
    [stage] = reducer.steps(shape, Budget(str(keep)))
    calls = sum(name.startswith("rec_decode_probs_t") for name in case)

    def run(prompt: Tensor, *rows: Tensor) -> Mapping[str, Tensor]:
        left = reducer.select(EagerTaps((0,), length, length, {0: Seen(attention=prompt)}, shape), stage)
        origin, found = torch.arange(length).expand(heads, -1), dict[str, Tensor]()
        for call in range(calls + 1):
            if call:
                seen = Seen(attention=pad(rows[call - 1], (0, 0, keep, 0)))  # slots in front of the new row ask nothing
                taps = EagerTaps((0,), keep + 1, keep + 1, {0: seen}, shape, state=left.state)
                left = reducer.decode(taps, stage)
                origin = torch.cat([origin, torch.full((heads, 1), length + call - 1)], 1)
            origin = origin.gather(1, _kept(left))
            found |= {f"rec_kept_t{call}": origin, f"rec_score_t{call}": left.state["score.0"]}
        return found

    names = ["rec_prefill_probs", *(f"rec_decode_probs_t{call}" for call in range(1, calls + 1))]
    want = {
        f"rec_{what}_t{call}": case[f"rec_{what}_t{call}"] for call in range(calls + 1) for what in ("kept", "score")
    }
    return Check("recurrent", run, [torch.from_numpy(case[name]) for name in names], want)


def _kept(selection: Selection) -> Tensor:
    assert selection.indices is not None
    return selection.indices[0]


def _masks(case: Arrays) -> Check:
    own = config(case)["mask"]
    sizes = (own["streaming"], own["select"], own["recent"], own["forgetting_factor"])

    def run(logits: Tensor) -> Mapping[str, Tensor]:
        return {"mask_keep": simulated(logits, *sizes)}

    return Check("masks", run, (torch.from_numpy(case["mask_logits"]),), {"mask_keep": case["mask_keep"]})
