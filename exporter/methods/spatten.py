"""SpAtten: a cache keeps its important entries between turns, or a prompt loses tokens layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.cascade import falling_line, held, learned_token_pruning
from exporter.maths.eviction import best_slots, between_ends, by_key_head, slots_of
from exporter.reducer import Reducer, Selection, Shape, Stage, StateSpec, Taps
from exporter.select import gather_rows, top_k

FORMS, SCHEDULES = ("llm", "cascade"), ("paper", "ltp")


@dataclass(frozen=True)
class SpAtten(Reducer):
    """Token pruning of the cache between two turns (the authors' code), or of the prompt on its way (the paper).

    `llm`: keys are cached before rotation and turned by their slot. Before a new turn each layer keeps the first
    `start` tokens, the last `recent - coming`, and between them the `important` ones with the largest logit of the last
    query, chosen by each key head; none go while at most `start + important + recent - coming` are there. Budget: that
    many slots; 100% evicts nothing. `cascade`: the attention that a token receives, summed over heads, queries and all
    layers so far, decides which go; they are gone for all later layers. Budget: the mean share of the prompt that runs
    behind the dense layers (`maths/cascade.py`); prompts are padded to the lengths of --buckets.

    Attributes:
        form: llm or cascade.
        start: llm, first tokens that stay.
        important: llm, tokens that stay for their logits; 0: what --keep leaves (150 of the authors' 300 with coming).
        recent: llm, last tokens of all, some of which make room for `coming`; 0: half, as the authors' 150 of 300.
            Where both are given, --keep is not read.
        coming: llm, room for the next turn, its prompt and answer (the authors: the prompt's length and 64).
        schedule: cascade, paper or ltp: the published port to Learned Token Pruning, where one layer's attention ranks,
            the counts fall to --keep, and three layers or more are dense.
        spread: cascade, schedule paper: the first pruned layer's share is so much above the mean.

    Raises:
        ValueError: an unknown form or schedule, or a parameter out of its range.
        UserError: a budget without room for what always stays.

    Source: *SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning*, arXiv 2012.09852
    (HPCA 2021); authors' code (llm).
    """

    title = "SpAtten"
    paper = "SpAtten: Efficient Sparse Attention Architecture with Cascade Token and Head Pruning"
    arxiv = "2012.09852"
    site = "decoder"
    positions = "slot"
    pictures = False
    differences = (
        "llm: --keep is what is left before a turn, and coming is fixed; the authors measure each turn's prompt",
        "llm, GQA: the logits of a key head's query heads are summed; the authors' code is for equally many of both",
        "llm: with right-padded batches slots count tokens only; the authors run one conversation at a time",
        "cascade: unverified, no code was published; the prompt's last token always stays, to go on from",
        "cascade: shares on a line with the mean --keep; the paper gives no start, spread=0.5 is ours",
        "cascade: prompts only, generated tokens evict nothing",
        "cascade: tokens keep their positions; ltp ranks for a layer by the layer before it",
        "head pruning, local value pruning and progressive quantisation are left out",
    )

    form: str = "llm"
    start: int = 0
    important: int = 0
    recent: int = 0
    coming: int = 64
    schedule: str = "paper"
    spread: float = 0.5

    def __post_init__(self) -> None:
        for name, value, allowed in (("form", self.form, FORMS), ("schedule", self.schedule, SCHEDULES)):
            if value not in allowed:
                raise ValueError(f"{name}={value}: choose from {', '.join(allowed)}")
        if min(self.start, self.important, self.recent, self.coming) < 0:
            raise ValueError("start, important, recent and coming are 0 or more")
        if self.recent and self.recent < self.coming:
            raise ValueError(f"coming {self.coming} tokens are more than the recent {self.recent} that make room")
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread {self.spread} is not between 0 and 1")
        if self.form == "cascade":
            object.__setattr__(self, "positions", "keep")
            for name in ("prompt", "unverified"):
                object.__setattr__(self, name, True)

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """Looks at every layer's logits, or the cuts of the cascade and the looks between them.

        Raises:
            UserError: see `turns`.
        """
        return self._cascade(shape, budget) if self.form == "cascade" else self.steps(shape, budget)

    def steps(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look at every layer's logits."""
        return tuple(Stage("decoder", stage.layer) for stage in self.turns(shape, budget))

    def states(self, shape: Shape, budget: Budget) -> tuple[StateSpec, ...]:
        """The last query's logits."""
        size = (shape.kv_heads, "slots")
        return tuple(StateSpec(_name(s.layer), size, reads=("evict",)) for s in self.turns(shape, budget))

    def turns(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The cache of every layer.

        Raises:
            UserError: no slot is left for important tokens.
        """
        keep = slots_of(budget, shape) if self.form == "llm" else None
        if keep is None:
            return ()
        if self.important and self.recent:
            keep = self.start + self.important + self.recent - self.coming
        if (room := keep - self.start - self.last(keep)) < max(self.important, 1):
            raise UserError(
                f"--keep {budget.text}: beside the first {self.start} and the last {self.last(keep)} tokens there is "
                f"room for {max(room, 0)} important ones; keep more, or lower --param start, recent or important"
            )
        return tuple(Stage("decoder", layer, "kv", keep=keep) for layer in range(shape.decoder_layers))

    def last(self, keep: int) -> int:
        """How many of the last tokens stay."""
        if self.recent:
            return self.recent - self.coming
        half = (keep + self.coming - self.start) // 2 - self.coming
        return max(keep - self.start - self.important if self.important else half, 0)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The prompt's logits, or a step of the cascade."""
        return self.decode(taps, stage) if self.form == "llm" else self._step(taps, stage)

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        """The last query's logits, those of padding among them."""
        logits = taps.rows(stage.layer, "last", logits=True)[:, :, 0]
        return Selection(state={_name(stage.layer): by_key_head(logits, taps.shape.kv_heads)})

    def between(self, taps: Taps, stage: Stage) -> Selection:
        """The ends and the important tokens."""
        assert stage.keep is not None
        scores = between_ends(taps.state[_name(stage.layer)].float(), taps.valid, self.start, self.last(stage.keep))
        return Selection(indices=best_slots(scores, taps.valid, stage.keep))

    def _cascade(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        now, layers, ltp = shape.tokens, shape.decoder_layers, self.schedule == "ltp"
        keep = budget.count(now)
        if keep == now or layers < 2:
            return ()
        counts = learned_token_pruning(now, keep, layers) if ltp else falling_line(now, keep, layers, self.spread)
        stages = list[Stage]()
        for layer in range(layers - 1):
            before, now = now, counts.get(layer + 1, now)
            if now < before or not ltp:  # what ltp ranks by is not carried on
                stages.append(Stage("decoder", layer, keep=now if now < before else None))
        return tuple(stages)

    def _step(self, taps: Taps, stage: Stage) -> Selection:
        """Add up, and cut."""
        scores = taps.span_of(taps.column_sum(stage.layer)).sum(2)
        if self.schedule == "paper" and "importance" in taps.carry:
            scores = scores + taps.carry["importance"]
        if stage.keep is None:
            return Selection(carry={"importance": scores})
        pinned = held(scores, taps.valid[:, None])
        kept = top_k(pinned, stage.keep)
        return Selection(indices=kept, carry={"importance": gather_rows(scores, kept)}, scores=pinned)


def _name(layer: int) -> str:
    """Of a layer's state."""
    return f"logits.{layer}"


METHOD = SpAtten
