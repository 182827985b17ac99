"""The decoder's memory between calls: keys and values, masks, and the positions that come next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.contract import Contract
from engines.geometry import Ints
from engines.layout import Layout

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class State:
    """The cache of a batch; group g of layers has P_g slots a sequence.

    Attributes:
        kv: "present.{l}.key" and ".value" -> [B, Hkv, P_g, d].
        masks: For each group [B, P_g] int64; 1 where a slot is valid.
        biases: For each group [B, P_g], added to attention logits.
        positions: [B, G] int64; the position id of each sequence's next token in each group.
        split: Whether the parts name groups.
        outputs: What else a prefill part returned: kept indices of its cuts, the method's own outputs.
    """

    kv: dict[str, NDArray[Any]]
    masks: list[Ints]
    biases: list[NDArray[Any]]
    positions: Ints
    split: bool
    outputs: Arrays = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """Slots of the longest group."""
        return max(int(mask.shape[1]) for mask in self.masks)

    def feeds(self, layout: Layout) -> dict[str, NDArray[Any]]:
        """What the decoder takes beside the embeddings, for new rows behind the cached ones."""
        feeds = {name.replace("present", "past_key_values", 1): array for name, array in self.kv.items()}
        for g, mask in enumerate(self.masks):
            suffix = f".{g}" if self.split else ""
            feeds[f"attention_mask{suffix}"] = np.concatenate([mask, layout.mask], axis=1)
            feeds[f"position_ids{suffix}"] = self.positions[:, g : g + 1] + layout.offsets
            feeds[f"key_bias{suffix}"] = _grown(self.biases[g], layout)
        return feeds

    def absorb(self, outputs: Arrays, layout: Layout) -> None:
        """Takes in what the decoder made of the new rows."""
        self.kv = {name: outputs[name] for name in self.kv}
        self.masks = [np.concatenate([mask, layout.mask], axis=1) for mask in self.masks]
        self.biases = [_grown(bias, layout) for bias in self.biases]
        self.positions = self.positions + layout.advance[:, None]

    def cut(self, slots: int, position: int) -> "State":
        """Returns the state of one sequence as it was with fewer slots; this one stays as it is."""
        kv = {name: np.ascontiguousarray(array[:, :, :slots]) for name, array in self.kv.items()}
        masks = [mask[:, :slots] for mask in self.masks]
        biases = [bias[:, :slots] for bias in self.biases]
        return State(kv, masks, biases, np.full_like(self.positions, position), self.split)


def _grown(bias: NDArray[Any], layout: Layout) -> NDArray[Any]:
    return np.concatenate([bias, np.zeros(layout.mask.shape, bias.dtype)], axis=1)


def _names(contract: Contract) -> list[str]:
    layers = [layer for group in contract.groups for layer in group]
    return [f"present.{layer}.{kind}" for layer in layers for kind in ("key", "value")]


def empty(contract: Contract, batch: int, dtype: DTypeLike) -> State:
    """A cache before the first token: one masked dummy slot, because no engine takes an empty one."""
    heads, width = contract.kv_shape
    kv = {name: np.zeros((batch, heads, 1, width), dtype) for name in _names(contract)}
    mask = np.zeros((batch, 1), np.int64)
    return State(kv, [mask], [np.zeros((batch, 1), dtype)], np.zeros((batch, 1), np.int64), split=False)


def from_prefill(contract: Contract, outputs: Arrays, dtype: DTypeLike) -> State:
    """The cache that a prefill part leaves."""
    masks = [outputs[f"attention_mask.{g}"] for g in range(len(contract.groups))]
    biases = [outputs.get(f"key_bias.{g}", np.zeros(mask.shape, np.dtype(dtype))) for g, mask in enumerate(masks)]
    kv = {name: outputs[name] for name in _names(contract)}
    named = kv.keys() | {"logits", "next_position"}
    rest = {name: array for name, array in outputs.items() if name not in named}
    return State(kv, masks, biases, outputs["next_position"], split=True, outputs=rest)
