"""New tokens over a past: the whole decoder where nothing is cut in it, else its second half."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.attention import Tape
from exporter.masks import attention_mask
from exporter.parts.base import FLOAT, Group, Job, Part, Port, mark

SLOTS = "1 where a cache slot or new row holds a token"
BIAS = "added to the attention logits of each slot"


class DecodePart(Part):
    """One graph for the prompt and for every step; `split` decoders have masks and positions by layer group."""

    def __init__(self, job: Job, groups: tuple[Group, ...], *, split: bool = False, biased: bool = False) -> None:
        super().__init__(job)
        self.groups, self.split = groups, split
        self.name = "decode" if split else "decoder"
        rows = ("batch", "tokens")
        ports = [Port("inputs_embeds", FLOAT, (*rows, job.family.widths.hidden), "rows to append, right-padded")]
        for number in range(len(groups)):
            group = mark(number, split=split)
            slots = ("batch", f"past{group}+tokens")
            ports.append(Port(f"attention_mask{group}", "int64", slots, SLOTS))
            ports.append(Port(f"position_ids{group}", "int64", self.place_axes(rows), "position of each new row"))
            if biased:
                ports.append(Port(f"key_bias{group}", "float32", slots, BIAS))
        self.inputs = (*ports, *self.cache_ports(groups, "past_key_values", "past{}", split=split))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`logits [B,1,V]` of each sequence's last new token, and the grown caches."""
        given, named = self.given(tensors), dict[str, Tensor]()
        x = given["inputs_embeds"]
        for number, group in enumerate(self.groups):
            x = self._run(x, group, mark(number, split=self.split), given, named)
        slots = given[f"attention_mask{mark(0, split=self.split)}"]
        new = slots[:, slots.shape[1] - x.shape[1] :] > 0
        present = self.cache_ports(self.groups, "present", "past{}+tokens", split=self.split)
        return self.finish({"logits": self.last_logits(x, new), **named}, self.logits_port, *present)

    def _run(self, x: Tensor, group: Group, name: str, given: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """The layers of one group; their grown caches go into `present`."""
        stack, slots = self.family.decoder, given[f"attention_mask{name}"] > 0
        past = given[f"past_key_values.{group.first}.key"].shape[2]
        torch._check(slots.shape[1] == x.shape[1] + past)  # type: ignore[no-untyped-call] # noqa: SLF001
        mask = attention_mask(slots, x, given.get(f"key_bias{name}"))
        assert stack.rotary is not None
        rope = stack.rotary(x, self.places(given[f"position_ids{name}"]))
        for layer in group.layers:
            block, cache = stack.blocks[layer], f"past_key_values.{layer}."
            tape = Tape(past=(given[cache + "key"], given[cache + "value"]))
            x = x + block.attention(block.norm1(x), mask, rope, tape)
            x = x + block.mlp(block.norm2(x))
            assert tape.k is not None
            assert tape.v is not None
            present |= {f"present.{layer}.key": tape.k, f"present.{layer}.value": tape.v}
        return x
