"""A whole prompt through a decoder that is cut on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise

import torch
from torch import Tensor

from exporter.masks import last_place
from exporter.parts.base import FLOAT, Group, Job, Part, Port, mark
from exporter.select import gather_rows
from exporter.sequence import Sequence
from exporter.stack import Walk

STARTS = "where each image's rows begin; dummies stand behind the last token"
SLOTS = "1 where a cache slot of this group holds a token"


class PrefillPart(Part):
    """Every group of layers between two cuts caches its own length; the groups are known once it is traced."""

    name = "prefill"

    def __init__(self, job: Job, tokens: int, carried: tuple[str, ...]) -> None:
        super().__init__(job)
        self.tokens = tokens
        rows, spans = ("batch", "tokens"), ("batch", job.images)
        self.inputs = (
            Port("inputs_embeds", FLOAT, (*rows, job.family.widths.hidden), "prompt rows, right-padded"),
            Port("attention_mask", "int64", rows, "1 where a row holds a token"),
            Port("position_ids", "int64", self.place_axes(rows), "position of each row"),
            Port("span_starts", "int64", spans, STARTS),
            *(Port(f"carry.{name}", "float32", (*spans, tokens), "from the vision part") for name in carried),
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`logits [B,1,V]`, caches by layer, and what decoding needs of each group."""
        walk = self._walk(self.given(tensors))
        last = walk.run(len(walk.stack.blocks))
        groups = groups_of(walk.lengths)
        biased = any(sequence.bias is not None for sequence in walk.lengths)
        self.found.facts |= {"groups": [asdict(group) for group in groups], "biased": biased}
        assert last.valid is not None
        named = {"logits": self.last_logits(last.hidden, last.valid)}
        for layer, (key, value) in enumerate(walk.cache):
            named |= {f"present.{layer}.key": key, f"present.{layer}.value": value}
        starts = [walk.lengths[group.first] for group in groups]
        before = walk.start.origin
        for number, sequence in enumerate(starts):
            named |= _slots(number, sequence, biased=biased)
            if sequence.origin is not before:
                named[f"kept_indices.{number}"] = before = sequence.origin
        named["next_position"] = torch.cat([_next_position(sequence) for sequence in starts], 1)
        return self.finish(named | walk.outputs, *self._ports(groups))

    def _walk(self, given: Mapping[str, Tensor]) -> Walk:
        starts = given["span_starts"]
        sequence = Sequence(
            hidden=given["inputs_embeds"],
            start=starts,
            width=self.tokens,
            origin=torch.arange(self.tokens).expand(*starts.shape, -1),
            valid=given["attention_mask"] > 0,
            positions=self.places(given["position_ids"]),
            carry={name.removeprefix("carry."): value for name, value in given.items() if name.startswith("carry.")},
        )
        return self.job.walk(self.family.decoder, sequence=sequence)

    def _ports(self, groups: tuple[Group, ...]) -> list[Port]:
        ports = [self.logits_port, *self.cache_ports(groups, "present", "length{}", split=True)]
        for number, group in enumerate(groups):
            slots = ("batch", f"length{mark(number, split=True)}")
            kept = ("batch", self.job.images, group.tokens)
            ports.append(Port(f"attention_mask.{number}", "int64", slots, SLOTS))
            ports.append(Port(f"key_bias.{number}", "float32", slots, "to be added to the logits of these slots"))
            ports.append(Port(f"kept_indices.{number}", "int64", kept, "place of each row in the uncut span"))
        following = ("batch", len(groups))
        return [*ports, Port("next_position", "int64", following, "of the next token, by group")]


def groups_of(lengths: list[Sequence]) -> tuple[Group, ...]:
    """Runs of layers whose caches have the same rows and key bias: a new one wherever either changed."""
    pairs = list(pairwise(lengths))
    changes = [i for i, (a, b) in enumerate(pairs, 1) if a.width != b.width or a.bias is not b.bias]
    edges = [0, *changes, len(lengths)]
    return tuple(Group(first, end, lengths[first].width) for first, end in pairwise(edges))


def _next_position(sequence: Sequence) -> Tensor:
    """`[B,1]`: one more than the last valid row's, on the axis where it is largest."""
    assert sequence.valid is not None
    assert sequence.positions is not None
    last = gather_rows(sequence.positions, last_place(sequence.valid))
    return (last if last.dim() == sequence.valid.dim() else last.amax(-1)) + 1


def _slots(number: int, sequence: Sequence, *, biased: bool) -> dict[str, Tensor]:
    """What decoding must know of the cache slots of one group."""
    assert sequence.valid is not None
    found = {f"attention_mask.{number}": sequence.valid.to(torch.int64)}
    if biased:
        unbiased = torch.zeros(sequence.hidden.shape[:2])
        found[f"key_bias.{number}"] = unbiased if sequence.bias is None else sequence.bias
    return found
