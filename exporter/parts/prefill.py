"""A whole prompt through a decoder that is cut on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from exporter.caches import Cached, Group, groups_of
from exporter.parts.base import FLOAT, Job, Part, Port
from exporter.sequence import Sequence
from exporter.stack import Walk

STARTS = "where each image's rows begin; dummies stand behind the last token"
SLOTS = "1 where a cache slot of this group holds a token"
PLACES = "span_slots"  # state: the slot of each token of the spans, -1 for those that are gone


class PrefillPart(Part):
    """Every group of layers between two cuts caches its own length; the groups are known once it is traced.

    Spans are pictures of `tokens` rows (of none where the model reads text only); with `whole` one span is the prompt,
    of `tokens` rows with its padding.
    """

    def __init__(
        self, job: Job, tokens: int, carried: tuple[str, ...] = (), *, name: str = "prefill", whole: bool = False
    ) -> None:
        super().__init__(job)
        self.name, self.tokens, self.whole = name, tokens, whole
        rows, spans = ("batch", tokens if whole else "tokens"), ("batch", 1 if whole else job.images)
        starts = () if whole or not tokens else (Port("span_starts", "int64", spans, STARTS),)
        self.inputs = (
            Port("inputs_embeds", FLOAT, (*rows, job.family.widths.hidden), "prompt rows, right-padded"),
            Port("attention_mask", "int64", rows, "1 where a row holds a token"),
            Port("position_ids", "int64", self.place_axes(rows), "position of each row"),
            *starts,
            *(Port(f"carry.{name}", "float32", (*spans, tokens), "from the vision part") for name in carried),
            *self.state_ports("prefill"),
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`logits [B,1,V]`, caches by layer, and what decoding needs of each group."""
        walk = self._walk(self.given(tensors))
        last = walk.run(len(walk.stack.blocks))
        groups = groups_of(walk.caches)
        biased = any(cached.sequence.bias is not None for cached in walk.caches)
        self.found.facts |= {"groups": [asdict(group) for group in groups], "biased": biased}
        self.found.facts["ran"] = [cached.ran for cached in walk.caches]
        assert last.valid is not None
        named = {"logits": self.last_logits(last.hidden, last.valid)}
        for layer, cached in enumerate(walk.caches):
            named |= {f"present.{layer}.key": cached.key, f"present.{layer}.value": cached.value}
        starts = [walk.caches[group.first] for group in groups]
        before = walk.start.origin
        for number, cached in enumerate(starts):
            named[f"attention_mask.{number}"] = cached.valid.to(torch.int64)
            if biased:
                named[f"key_bias.{number}"] = cached.bias
            if cached.sequence.origin is not before:
                named[f"kept_indices.{number}"] = before = cached.sequence.origin
        named["next_position"] = torch.cat([cached.next_position for cached in starts], 1)
        following = walk.following | self._places(walk.caches)
        named |= {f"next_state.{name}": value for name, value in following.items()}
        return self.finish(named | walk.outputs, *self._ports(groups))

    def _walk(self, given: Mapping[str, Tensor]) -> Walk:
        hidden = given["inputs_embeds"]
        starts = given.get("span_starts")
        origin = torch.arange(self.tokens).expand(hidden.shape[0], 1 if starts is None else starts.shape[1], -1)
        sequence = Sequence(
            hidden=hidden,
            start=0 if starts is None else starts,
            width=self.tokens,
            origin=origin,
            valid=given["attention_mask"] > 0,
            positions=self.places(given["position_ids"]),
            carry={name.removeprefix("carry."): value for name, value in given.items() if name.startswith("carry.")},
            rows=torch.arange(hidden.shape[1]).expand(hidden.shape[:2]),
        )
        shape = self.job.shape.flat(self.tokens)
        return self.job.walk(self.family.decoder, shape, sequence=sequence, state=self.state_of(given))

    def _places(self, caches: list[Cached]) -> dict[str, Tensor]:
        """Where the spans' tokens are found in the cache of the layer that steps look at."""
        looks = [stage.layer for stage in self.job.steps if stage.at == "after"]
        if not looks:
            return {}
        return {PLACES: caches[looks[0]].span_slots(self.tokens)}

    def _ports(self, groups: tuple[Group, ...]) -> list[Port]:
        lengths = [g.fixed or (g.tokens if self.whole else f"length.{n}") for n, g in enumerate(groups)]
        ports = [self.logits_port, *self.cache_ports(groups, "present", lengths)]
        for number, group in enumerate(groups):
            slots = ("batch", lengths[number])
            kept = ("batch", 1 if self.whole else self.job.images, group.tokens)
            ports.append(Port(f"attention_mask.{number}", "int64", slots, SLOTS))
            ports.append(Port(f"key_bias.{number}", "float32", slots, "to be added to the logits of these slots"))
            ports.append(Port(f"kept_indices.{number}", "int64", kept, "place of each row in the uncut span"))
        following = ("batch", len(groups))
        return [*ports, Port("next_position", "int64", following, "of the next token, by group")]
