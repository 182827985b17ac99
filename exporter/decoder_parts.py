"""The decoder as modules: `decoder` where one graph serves prompt and step, `prefill` and `decode` where it is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from exporter.attention import Tape
from exporter.family import Family
from exporter.masks import attention_mask
from exporter.parts import FLOAT, Job, Part, Port
from exporter.select import gather_rows
from exporter.sequence import Sequence
from exporter.stack import Walk


@dataclass(frozen=True)
class Group:
    """Decoder layers `first` to `end - 1`, whose caches have equal length; `tokens` rows of one image are in it."""

    first: int
    end: int
    tokens: int

    @property
    def layers(self) -> range:
        """The layer numbers."""
        return range(self.first, self.end)


def _cache_ports(family: Family, groups: tuple[Group, ...], word: str, axis: str) -> list[Port]:
    """Key and value ports of all layers; with several groups the length axis carries the group's number."""
    ports = []
    text = family.config.text_config
    head = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    for number, group in enumerate(groups):
        mark = f".{number}" if len(groups) > 1 else ""
        shape = ("batch", int(text.num_key_value_heads), axis.format(mark), head)
        for layer in group.layers:
            ports += [
                Port(f"{word}.{layer}.{kind}", FLOAT, shape, f"{kind}s of layer {layer}") for kind in ("key", "value")
            ]
    return ports


class DecodePart(Part):
    """New tokens over a past: one graph for the prompt and for every step, or the second half of a split decoder."""

    def __init__(self, job: Job, groups: tuple[Group, ...], *, biased: bool = False) -> None:
        super().__init__(job.family)
        self.family, self.groups, self.biased = job.family, groups, biased
        self.name = "decoder" if len(groups) == 1 else "decode"
        width = int(job.family.config.text_config.hidden_size)
        ports = [Port("inputs_embeds", FLOAT, ("batch", "tokens", width), "rows to append, right-padded")]
        for number in range(len(groups)):
            mark = f".{number}" if len(groups) > 1 else ""
            slots = ("batch", f"past{mark}+tokens")
            ports.append(Port(f"attention_mask{mark}", "int64", slots, "1 where a cache slot or new row holds a token"))
            ports.append(Port(f"position_ids{mark}", "int64", ("batch", "tokens"), "position of each new row"))
            if biased:
                ports.append(Port(f"key_bias{mark}", "float32", slots, "added to the attention logits of each slot"))
        self.inputs = (*ports, *_cache_ports(job.family, groups, "past_key_values", "past{}"))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`logits [B,1,V]` of each sequence's last new token, and the grown caches."""
        given = {port.name: tensor for port, tensor in zip(self.inputs, tensors, strict=True)}
        x, stack, caches = given["inputs_embeds"], self.family.decoder, dict[str, Tensor]()
        new = x.shape[1]
        valid = torch.ones(x.shape[:2], dtype=torch.bool)
        for number, group in enumerate(self.groups):
            mark = f".{number}" if len(self.groups) > 1 else ""
            slots = given[f"attention_mask{mark}"] > 0
            past = given[f"past_key_values.{group.first}.key"].shape[2]
            torch._check(slots.shape[1] == new + past)  # type: ignore[no-untyped-call] # noqa: SLF001
            mask = attention_mask(slots, x, given.get(f"key_bias{mark}"))
            assert stack.rotary is not None
            rope = stack.rotary(x, given[f"position_ids{mark}"])
            valid = slots[:, slots.shape[1] - new :]
            for layer in group.layers:
                block, name = stack.blocks[layer], f"past_key_values.{layer}."
                tape = Tape(past=(given[name + "key"], given[name + "value"]))
                x = x + block.attention(block.norm1(x), mask, rope, tape)
                x = x + block.mlp(block.norm2(x))
                assert tape.k is not None
                assert tape.v is not None
                caches |= {f"present.{layer}.key": tape.k, f"present.{layer}.value": tape.v}
        return self.finish({"logits": last_logits(self.family, x, valid), **caches}, self._ports(), "")

    def _ports(self) -> dict[str, Port]:
        ports = [
            logits_port(self.family),
            *_cache_ports(self.family, self.groups, "present", "past{0}+tokens"),
        ]
        return {port.name: port for port in ports}


class PrefillPart(Part):
    """A whole prompt through a decoder that is cut on the way: every group of layers caches its own length."""

    name = "prefill"

    def __init__(self, job: Job, tokens: int, carried: tuple[str, ...]) -> None:
        super().__init__(job.family)
        self.job, self.tokens, self.groups, self.biased = job, tokens, tuple[Group, ...](), False
        width, spans = int(job.family.config.text_config.hidden_size), ("batch", job.images)
        self.inputs = (
            Port("inputs_embeds", FLOAT, ("batch", "tokens", width), "prompt rows, right-padded"),
            Port("attention_mask", "int64", ("batch", "tokens"), "1 where a row holds a token"),
            Port("position_ids", "int64", ("batch", "tokens"), "position of each row"),
            Port(
                "span_starts",
                "int64",
                spans,
                "where each image's rows begin; dummies stand behind the last token",
            ),
            *(
                Port(f"carry.{name}", "float32", (*spans, tokens), "carried over from the vision part")
                for name in carried
            ),
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`logits [B,1,V]`, caches by layer, and what decoding needs of each group."""
        given = {port.name: tensor for port, tensor in zip(self.inputs, tensors, strict=True)}
        walk = self._walk(given)
        last = walk.run(len(walk.stack.blocks))
        self.groups = _groups(walk.lengths)
        self.biased = any(sequence.bias is not None for sequence in walk.lengths)
        assert last.valid is not None
        named = {"logits": last_logits(self.job.family, last.hidden, last.valid)}
        for layer, (key, value) in enumerate(walk.cache):
            named |= {f"present.{layer}.key": key, f"present.{layer}.value": value}
        following = []
        for number, group in enumerate(self.groups):
            mark = f".{number}" if len(self.groups) > 1 else ""
            sequence = walk.lengths[group.first]
            assert sequence.valid is not None
            assert sequence.positions is not None
            named[f"attention_mask{mark}"] = sequence.valid.to(torch.int64)
            if self.biased:
                empty = torch.zeros(sequence.hidden.shape[:2])
                named[f"key_bias{mark}"] = empty if sequence.bias is None else sequence.bias
            if number:
                named[f"kept_indices{mark}"] = sequence.origin
            following.append(gather_rows(sequence.positions, sequence.valid.sum(1, keepdim=True) - 1) + 1)
        named["next_position"] = torch.cat(following, 1)
        return self.finish(named | walk.outputs, self._ports(), "made by the method")

    def _walk(self, given: Mapping[str, Tensor]) -> Walk:
        job, starts = self.job, given["span_starts"]
        sequence = Sequence(
            hidden=given["inputs_embeds"],
            start=starts,
            width=self.tokens,
            origin=torch.arange(self.tokens).expand(*starts.shape, -1),
            valid=given["attention_mask"] > 0,
            positions=given["position_ids"],
            carry={name.removeprefix("carry."): value for name, value in given.items() if name.startswith("carry.")},
        )
        return Walk(job.family.decoder, job.reducer, job.stages, job.family.shape(job.images).grid, sequence)

    def _ports(self) -> dict[str, Port]:
        axis = "length{}"
        ports = [logits_port(self.job.family), *_cache_ports(self.job.family, self.groups, "present", axis)]
        for number in range(len(self.groups)):
            mark = f".{number}" if len(self.groups) > 1 else ""
            slots = ("batch", axis.format(mark))
            ports.append(
                Port(
                    f"attention_mask{mark}",
                    "int64",
                    slots,
                    "1 where a cache slot of this group holds a token",
                )
            )
            kept = ("batch", self.job.images, self.groups[number].tokens)
            ports.append(Port(f"kept_indices{mark}", "int64", kept, "place of each row in the uncut span; -1: merged"))
            ports.append(Port(f"key_bias{mark}", "float32", slots, "to be added to the logits of these slots"))
        ports.append(
            Port(
                "next_position",
                "int64",
                ("batch", len(self.groups)),
                "position of the next token in each group",
            )
        )
        return {port.name: port for port in ports}


def last_logits(family: Family, hidden: Tensor, valid: Tensor) -> Tensor:
    """`[B,1,V]`: logits of each sequence's last valid row; a row without any uses its first."""
    last = (valid.sum(1, keepdim=True) - 1).clamp(min=0)
    return family.head(gather_rows(hidden, last))


def logits_port(family: Family) -> Port:
    """The logits' port."""
    return Port("logits", FLOAT, ("batch", 1, int(family.config.text_config.vocab_size)), "of the last new token")


def _groups(lengths: list[Sequence]) -> tuple[Group, ...]:
    """Runs of layers whose caches belong to the same cut of the sequence."""
    edges = [
        0,
        *(i for i in range(1, len(lengths)) if lengths[i].width != lengths[i - 1].width),
        len(lengths),
    ]
    return tuple(Group(first, end, lengths[first].width) for first, end in pairwise(edges))


def single_group(family: Family, tokens: int) -> tuple[Group, ...]:
    """The one group of a decoder without stages."""
    return (Group(0, len(family.decoder.blocks), tokens),)
