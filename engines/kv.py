"""The decoder's memory between calls: keys and values, masks, states, and the positions that come next."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.contract import Contract
from engines.errors import UserError
from engines.geometry import Ints
from engines.layout import Layout
from engines.split import Split
from engines.states import NEXT, Live

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class State:
    """The cache of a batch; group g of layers has P_g slots a sequence.

    Attributes:
        kv: "present.{l}.key" and ".value" -> [B, Hkv, P_g, d]; of static caches more slots than that.
        masks: For each group [B, P_g] int64; 1 where a slot is valid.
        biases: For each group [B, P_g], added to attention logits.
        positions: [B, G] int64; the position id of each sequence's next token in each group.
        rows: Rows read so far, whatever became of them.
        split: How the parts are called where they name groups.
        live: State tensors.
        outputs: What else a prefill part returned: kept indices of its cuts, the method's own outputs.
    """

    kv: dict[str, NDArray[Any]]
    masks: list[Ints]
    biases: list[NDArray[Any]]
    positions: Ints
    rows: int
    split: Split | None = None
    live: Live = field(default_factory=Live)
    outputs: Arrays = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """Slots of the longest group; those of constant length count as if nothing had been cut."""
        fixed = self.split.fixed if self.split else ()
        return max(self.rows if g in fixed else int(mask.shape[1]) for g, mask in enumerate(self.masks))

    def cached(self) -> dict[str, NDArray[Any]]:
        """What a part takes that looks at the cache alone."""
        past = {name.replace("present", "past_key_values", 1): array for name, array in self.kv.items()}
        masks = {f"attention_mask{self._suffix(g)}": mask for g, mask in enumerate(self.masks)}
        return past | masks | self.live.feeds()

    def feeds(self, layout: Layout) -> dict[str, NDArray[Any]]:
        """What the decoder takes beside the embeddings, for new rows behind the cached ones."""
        feeds, new = self.cached(), np.arange(layout.mask.shape[1])
        for g, mask in enumerate(self.masks):
            suffix = self._suffix(g)
            feeds[f"attention_mask{suffix}"] = self._sized(g, np.concatenate([mask, layout.mask], axis=1))
            feeds[f"position_ids{suffix}"] = self.positions[:, g : g + 1] + layout.offsets
            feeds[f"key_bias{suffix}"] = self._sized(g, _grown(self.biases[g], layout))
            feeds[f"slots{suffix}"] = np.tile(mask.shape[1] + new, (len(mask), 1))
        return feeds

    def _suffix(self, group: int) -> str:
        return f".{group}" if self.split else ""

    def _sized(self, group: int, array: NDArray[Any]) -> NDArray[Any]:
        """With zeros up to the slots of static caches."""
        return padded(array, 1, self.split.capacity[group]) if self.split and self.split.capacity else array

    def absorb(self, outputs: Arrays, layout: Layout) -> None:
        """Takes in what the decoder made of the new rows."""
        self.kv = {name: outputs[name] for name in self.kv}
        for g, (mask, bias) in enumerate(zip(self.masks, self.biases, strict=True)):
            kept = outputs.get(f"kept_mask.{g}")
            self.masks[g] = np.concatenate([mask, layout.mask], axis=1) if kept is None else kept
            self.biases[g] = _grown(bias, layout) if kept is None else np.zeros(kept.shape, bias.dtype)
        self.positions = self.positions + layout.advance[:, None]
        self.rows += layout.mask.shape[1]
        self.live.take(outputs)

    def cut(self, slots: int, position: int) -> "State":
        """Returns the state of one sequence as it was with fewer slots; this one stays as it is."""
        kv = {name: np.ascontiguousarray(array[:, :, :slots]) for name, array in self.kv.items()}
        masks = [mask[:, :slots] for mask in self.masks]
        biases = [bias[:, :slots] for bias in self.biases]
        return State(kv, masks, biases, np.full_like(self.positions, position), slots)

    def evicted(self, outputs: Arrays) -> "State":
        """Returns what the evict part left of the cache; this one stays as it is."""
        kv = {name: outputs[name] for name in self.kv}
        masks = [outputs[f"kept_mask.{g}"] for g in range(len(self.masks))]
        biases = [np.zeros(mask.shape, bias.dtype) for mask, bias in zip(masks, self.biases, strict=True)]
        rows = max(int(mask.shape[1]) for mask in masks)
        return replace(self, kv=kv, masks=masks, biases=biases, positions=outputs["next_position"], rows=rows)


def _grown(bias: NDArray[Any], layout: Layout) -> NDArray[Any]:
    return np.concatenate([bias, np.zeros(layout.mask.shape, bias.dtype)], axis=1)


def padded(array: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    """With zeros behind the last entry of an axis, up to a size.

    Raises:
        UserError: There are more entries.
    """
    more = size - array.shape[axis]
    if more < 0:
        raise UserError(f"a cache of {array.shape[axis]} slots, where bundle.json says {size}: export the bundle again")
    return np.pad(array, [(0, more if number == axis else 0) for number in range(array.ndim)])


def _names(contract: Contract) -> list[str]:
    layers = [layer for group in contract.groups for layer in group]
    return [f"present.{layer}.{kind}" for layer in layers for kind in ("key", "value")]


def empty(contract: Contract, batch: int, dtype: DTypeLike) -> State:
    """A cache before the first token: one masked dummy slot, because no engine takes an empty one."""
    heads, width = contract.kv_shape
    kv = {name: np.zeros((batch, heads, 1, width), dtype) for name in _names(contract)}
    mask = np.zeros((batch, 1), np.int64)
    return State(kv, [mask], [np.zeros((batch, 1), dtype)], np.zeros((batch, 1), np.int64), 1)


def from_prefill(contract: Contract, outputs: Arrays, dtype: DTypeLike, rows: int, live: Live) -> State:
    """The cache that a prefill part leaves of so many rows; what it says of states goes to the live ones."""
    assert contract.split
    masks = [outputs[f"attention_mask.{g}"] for g in range(len(contract.groups))]
    biases = [outputs.get(f"key_bias.{g}", np.zeros(mask.shape, np.dtype(dtype))) for g, mask in enumerate(masks)]
    kv = {name: outputs[name] for name in _names(contract)}
    named = kv.keys() | {"logits", "next_position"}
    for group, size in zip(contract.groups, contract.split.capacity, strict=False):
        for name in (f"present.{layer}.{kind}" for layer in group for kind in ("key", "value")):
            kv[name] = padded(kv[name], 2, size)
    live.take(outputs)
    rest = {name: array for name, array in outputs.items() if name not in named and not name.startswith(NEXT)}
    return State(kv, masks, biases, outputs["next_position"], rows, contract.split, live, rest)
