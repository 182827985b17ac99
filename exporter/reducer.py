"""The contract between a method and the tool: a reducer plans stages, looks through taps, returns selections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

from exporter.budget import Budget
from exporter.shape import Grid, Shape

__all__ = [
    "QKV",
    "Grid",
    "Point",
    "Positions",
    "Reducer",
    "Reset",
    "Rows",
    "Selection",
    "Shape",
    "Site",
    "StackName",
    "Stage",
    "StateSpec",
    "Taps",
]

StackName = Literal["tower", "projected", "decoder"]
Site = Literal["after", "mid", "around", "kv"]
Positions = Literal["keep", "renumber", "slot"]
Point = Literal["in", "attention_in", "attention_out", "mid", "mlp_in", "mlp_out", "out"]
Rows = Literal["cls", "last"] | Tensor
Reset = Literal["request", "episode"]


class QKV(NamedTuple):
    """Queries `[B,H,n,d]`, keys and values `[B,Hkv,n,d]` as one attention layer sees them."""

    q: Tensor
    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class Stage:
    """A place in a stack where the reducer acts, with a constant budget.

    Attributes:
        stack: "projected" is the list of all views' tokens behind the projector, before the prompt takes it.
        layer: the layer it acts after, -1 before layer 0.
        at: "after" the layer, or "mid": between its attention and its MLP. "around": the layer runs on the kept tokens
            alone, the others pass it by; stages after it look at what ran. "kv": of the layer's cache alone `keep`
            slots stay, chosen by key head from the whole sequence.
        keep: tokens per span; 0 drops the span, None only observes.
        extra: merged tokens appended behind the kept ones.
        cls: the tower's [CLS] row joins the span, in front of the kept tokens.
        blanks: indices may be -1, a row of zeros, or -2, a slot without a token that nobody attends to.
        since: of "kv", instead of a selection: the caches of layers `since` to `layer` keep what lives on behind it.
    """

    stack: StackName
    layer: int = -1
    at: Site = "after"
    keep: int | None = None
    extra: int = 0
    cls: bool = False
    blanks: bool = False
    since: int | None = None

    @property
    def width(self) -> int:
        """Rows of a span behind the cut."""
        return (self.keep or 0) + self.extra + self.cls


@dataclass(frozen=True)
class Selection:
    """What a reducer returns at a stage, for B sequences of I spans of n tokens.

    Attributes:
        indices: `[B,I,keep]` int64 into the span, ascending unless the method says otherwise; see `Stage.blanks`. "kv":
            `[B,Hkv,keep]` places in the sequence (when decoding, slots), valid ones first, -2 for an empty slot.
        mix: `[B,I,M,n]`; `mix @ span` gives M new rows (merging).
        mix_rows: which of the keep + extra rows `mix` writes; by default the extra ones.
        key_bias: `[B,I,keep+extra]` added to the attention logits of these keys in all later layers.
        carry: per-token values `[B,I,keep+extra]`, gathered onward with the tokens, also from part to part.
        marks: values of every row of the sequence, `[B,S]`, which travel with the rows through the stack.
        state: new values of state tensors, see `StateSpec`.
        outputs: named outputs of the part: flags, score rows.
        scores: what was ranked, `[B,I,n]` fp32; parity reads the margin at rank `keep` from it, it is not exported.
    """

    indices: Tensor | None = None
    mix: Tensor | None = None
    mix_rows: tuple[int, ...] = ()
    key_bias: Tensor | None = None
    carry: Mapping[str, Tensor] = field(default_factory=dict)
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None


@dataclass(frozen=True)
class StateSpec:
    """A tensor that lives from call to call: the runtime keeps it and feeds back what the engine returns.

    Attributes:
        name: port `state.NAME` in, `next_state.NAME` out.
        shape: of one sequence, without the batch; a name is an axis that grows with the cache.
        dtype: float32 or int64.
        initial: the value of every element at the start of an episode; of a request, prefill makes it.
        reset: "request": every prompt starts anew. "episode": it lives on until the episode is over.
        reads: the parts that take it, of prefill (then of an episode), decode, evict.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    initial: float = 0.0
    reset: Reset = "request"
    reads: tuple[str, ...] = ("decode",)


class Taps(Protocol):
    """Lazy access to what a reducer may look at; what no one asks for costs nothing.

    Layers are 0-based. A layer that ran before the last cut holds other tokens and is refused: carry its scores.
    """

    @property
    def valid(self) -> Tensor:
        """`[B,n]` bool: rows of the sequence that hold a token."""

    @property
    def span(self) -> Tensor:
        """`[B,I,N]` int64: where each span's tokens stand in the sequence."""

    @property
    def shape(self) -> Shape:
        """The model's geometry."""

    @property
    def carry(self) -> Mapping[str, Tensor]:
        """`[B,I,N]` each: what earlier stages handed on."""

    @property
    def marks(self) -> Mapping[str, Tensor]:
        """`[B,S]` each: what earlier stages noted of every row."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """`[B,...]` each: tensors that live from call to call."""

    @property
    def rope(self) -> tuple[Tensor, Tensor] | None:
        """Cos and sin `[B,S,d]` at the rows' positions as they are now; None where the stack does not rotate."""

    @property
    def outside(self) -> Tensor:
        """`[B,S-I*N]` int64: places of the rows that belong to no span, ascending; padding is among them."""

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """What the runtime supplies beside the picture, by what the reducer `needs`.

        text: `text [B,W,D]`, the decoder's input embeddings of the prompt's tokens without the pictures', and
        `text_mask [B,W]` bool. clip: `clip_text [B,M,P]`, the question's segments through the CLIP text tower, and
        `clip_mask [B,M]` bool. pixels: the view itself, `pixels [B,3,H,W]` as the tower gets it (in the tower).
        """

    def aligned(self, states: Tensor, *, norm: bool) -> Tensor:
        """Tower states `[...,C]` in the CLIP text tower's space `[...,P]`, by its post-norm or not (needs clip)."""

    def normed(self, states: Tensor) -> Tensor:
        """Decoder states `[...,C]` behind the model's final norm."""

    def hidden(self, layer: int, point: Point = "out") -> Tensor:
        """`[B,n,C]` at one point of a layer, also of the one about to run."""

    def qkv(self, layer: int, *, rope: bool = True) -> QKV:
        """q, k, v of a layer, also of the one about to run; `rope=False` gives them before rotation."""

    def rows(self, layer: int, rows: Rows, *, logits: bool = False) -> Tensor:
        """Attention of chosen queries over all keys, `[B,H,R,n]` fp32: softmax, or the masked logits."""

    def column_sum(self, layer: int, weights: Tensor | None = None) -> Tensor:
        """`[B,H,n]` fp32: attention received by each key, queries weighted by `[B,n]` (default: the valid ones)."""

    def span_of(self, values: Tensor) -> Tensor:
        """The spans of `[B,...,n]` as `[B,I,...,N]`; where several rows make one token, their mean."""


@dataclass(frozen=True)
class Reducer:
    """Base of every method: the authors' parameters are its fields, their defaults the fields' defaults."""

    title: ClassVar[str]
    paper: ClassVar[str]
    arxiv: ClassVar[str] = ""
    site: ClassVar[str] = "encoder"
    differences: ClassVar[tuple[str, ...]] = ()
    positions: ClassVar[Positions] = "renumber"
    needs: ClassVar[frozenset[str]] = frozenset()  # of cls, text, clip, video, pixels, frame_scores, router
    prompt: ClassVar[bool] = False  # the span is the whole prompt, of a length that is exported for: --buckets
    pictures: ClassVar[bool] = True  # it cuts pictures; else it has a meaning for text alone, too
    unverified: ClassVar[bool] = False  # nobody published code to compare with
    warm_up: ClassVar[int] = 0  # requests of an episode that run without decoder cuts, until the state is full

    @property
    def entry(self) -> Positions:
        """How the rows that a picture keeps are numbered when the decoder gets them; `positions` is what cuts do."""
        return self.positions

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The stages, in the order in which they act."""
        raise NotImplementedError

    def picture_plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The stages that pictures set: all of them, unless spans are prompts."""
        return () if self.prompt else self.plan(shape, budget)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """What lives on after `stage`."""
        raise NotImplementedError

    def states(self, shape: Shape, budget: Budget) -> tuple[StateSpec, ...]:
        """Tensors that live from call to call."""
        del shape, budget
        return ()

    def steps(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """Stages at every generated token: "after" a layer to observe, or "kv" to keep its cache at `keep` slots."""
        del shape, budget
        return ()

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        """What a stage of `steps` finds: rows are cache slots, the new tokens' last; `span` `[B,I,N]` has -1 for gone.

        `key_bias` `[B,I,N]` holds for the layers behind, in this step.
        """
        raise NotImplementedError

    def turns(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """Stages "kv" between two turns of a conversation."""
        del shape, budget
        return ()

    def between(self, taps: Taps, stage: Stage) -> Selection:
        """What a stage of `turns` leaves in the cache; of the taps there are `valid` and `state`."""
        raise NotImplementedError

    def trained(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str], shape: Shape) -> Reducer:
        """The method with its trained weights, for those that need a router.

        Raises:
            UserError: the file's layout is not the documented one.
        """
        raise NotImplementedError
