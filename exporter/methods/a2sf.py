"""A2SF: keep the cache entries that received most attention, where older queries count less and less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.eviction import best_slots, between_ends, by_key_head, counted, slots_of
from exporter.maths.forgetting import forgetting
from exporter.reducer import Reducer, Selection, Shape, Stage, StateSpec, Taps
from exporter.select import gather_rows

FORMS = ("prefill", "recurrent")


@dataclass(frozen=True)
class A2SF(Reducer):
    """Accumulative attention score with a forgetting factor: every decoder layer keeps a cache of its own choice.

    `A[k] = sum over queries q <= n of alpha^(n-q) p_q[k]`, fp32, p the softmax, summed over the query heads of a key
    head. `--keep` slots stay of each layer's cache: the first `streaming` tokens, the last `recent`, and between them
    those with the largest A, chosen by each key head. A sequence that is not longer keeps all. Positions stay.
    `prefill`: once, after the prompt; then the cache grows. `recurrent`: after every generated token too, with
    `A = alpha A + p` carried on (state `score.LAYER`); nothing adds up while all tokens fit. Budget: slots of a
    layer's cache, text and pictures together; a share counts the tokens of a picture, 100% evicts nothing.

    Attributes:
        form: prefill (the authors' present code) or recurrent (their earlier cache).
        alpha: the forgetting factor; 1 is H2O, 0 looks at the last query alone.
        recent: last tokens that stay; -1: 16 in prefill, half of what streaming leaves in recurrent (64 of 133).
        streaming: first tokens that stay; -1: 0 in prefill, 5 in recurrent (fewer where --keep is below 20).

    Raises:
        ValueError: an unknown form, or a parameter out of its range.
        UserError: a budget without room for what always stays.

    Source: *A2SF: Accumulative Attention Scoring with Forgetting Factor for Token Pruning in Transformer Decoder*,
    arXiv 2407.20485; authors' code.
    """

    title = "A2SF"
    paper = "A2SF: Accumulative Attention Scoring with Forgetting Factor for Token Pruning in Transformer Decoder"
    arxiv = "2407.20485"
    site = "decoder"
    positions = "keep"
    pictures = False
    differences = (
        "alpha is 0.95 everywhere, the one value the authors show; theirs is tuned to model and budget",
        "prefill: the attention map of a layer is summed at once, the authors' in blocks of 128 queries",
        "recurrent, GQA: scores are summed over the query heads of a key head; the authors keep a cache a query head",
        "recurrent: eviction begins above all --keep slots; the authors count without streaming, and fail in between",
        "recurrent, several new rows at once: each counts by its age, as in a prompt",
        "the paper's masks over a whole text (evaluation only) are exporter/maths/forgetting.py, not a form",
        "the authors' trained agent that chooses a window is left out",
    )

    form: str = "prefill"
    alpha: float = 0.95
    recent: int = -1
    streaming: int = -1

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form}: choose from {', '.join(FORMS)}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} is not between 0 and 1")
        if self.recent == 0 or min(self.recent, self.streaming) < -1:
            raise ValueError(f"recent {self.recent} is 1 or more, streaming {self.streaming} is 0 or more")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The cache of every layer."""
        keep = slots_of(budget, shape)
        if keep is None:
            return ()
        first, last = self.ends(keep)
        if first + last > keep:
            raise UserError(
                f"--keep {budget.text}: the first {first} and the last {last} tokens always stay; "
                "keep more, or lower --param streaming and --param recent"
            )
        return tuple(Stage("decoder", layer, "kv", keep=keep) for layer in range(shape.decoder_layers))

    def ends(self, keep: int) -> tuple[int, int]:
        """How many of the first and of the last tokens stay."""
        recurrent = self.form == "recurrent"
        first = self.streaming if self.streaming >= 0 else min(5, keep // 4) if recurrent else 0
        return first, self.recent if self.recent > 0 else max(1, (keep - first) // 2) if recurrent else min(16, keep)

    def states(self, shape: Shape, budget: Budget) -> tuple[StateSpec, ...]:
        """A of every slot."""
        return tuple(StateSpec(_name(s), (shape.kv_heads, s.keep or 0)) for s in self.steps(shape, budget))

    def steps(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """Where the cache is kept at its size: as in the prompt."""
        return self.plan(shape, budget) if self.form == "recurrent" else ()

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """What stays of the prompt."""
        return self._left(self.scores(taps, stage.layer), taps.valid, stage)

    def scores(self, taps: Taps, layer: int) -> Tensor:
        """A of the prompt's tokens, `[B,Hkv,S]`."""
        return by_key_head(taps.column_sum(layer, forgetting(taps.valid, self.alpha)), taps.shape.kv_heads)

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        """What stays of the slots `[B,K]` and the new rows behind them."""
        assert stage.keep is not None
        valid, before = taps.valid, taps.state[_name(stage)]
        fresh = valid[:, stage.keep :]
        new = stage.keep + torch.arange(fresh.shape[1]).expand(fresh.shape)
        weights = forgetting(fresh, self.alpha)[:, None, :, None]
        found = by_key_head((taps.rows(stage.layer, new) * weights).sum(2), taps.shape.kv_heads)
        old = before * self.alpha ** counted(fresh)[:, None].float()
        scores = found + torch.cat([old, torch.zeros_like(found[..., stage.keep :])], -1)
        return self._left(scores, valid, stage, spare=False)

    def _left(self, scores: Tensor, valid: Tensor, stage: Stage, *, spare: bool = True) -> Selection:
        """The slots that stay, and with them A, if it is carried on."""
        keep = stage.keep
        assert keep is not None
        kept = best_slots(between_ends(scores, valid, *self.ends(keep)), valid, keep, spare=spare)
        if self.form == "prefill":
            return Selection(indices=kept)
        scores = scores * (counted(valid) > keep)[:, None].float()
        left = gather_rows(scores, kept.clamp(min=0)) * (kept >= 0).float()
        return Selection(indices=kept, state={_name(stage): left})


def _name(stage: Stage) -> str:
    """Of a layer's state."""
    return f"score.{stage.layer}"


METHOD = A2SF
