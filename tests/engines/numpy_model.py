"""A tiny vision-language model in NumPy that keeps the tensor contract: real attention, masks, positions."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

IMAGE, VIDEO, PIXELS, GRID, HEADS, WIDTH, VOCABULARY = 4, 20, 6, 3, 2, 4, 21
PATCHES, HIDDEN = GRID * GRID, HEADS * WIDTH
NEGATIVE = -1e30
MORE = {"tiles": 2, "video": 3}
TEXT = ("text_embeds", "text_mask")


@dataclass
class NumpyModel:
    """Two layers; `second` (if set) is how many rows of a picture the second layer keeps: a split decoder.

    `forms` are vision parts beside the first: tiles keep two rows more, videos three. `empty`: the worst so many of a
    picture's slots hold no token. `reads`: what the first vision part reads beside the picture, text or clip.

    Of a split decoder: `buckets` are lengths that prompts are padded to, and nothing is cut then; `warm` requests go
    through a part that cuts nothing; `static` caches have a constant length; `held`: so many slots of the second
    layer's cache stay at every step, the newest; `evict`: positions are slots, and so many stay between two turns.
    """

    positions: str = "renumber"
    keep: int = 5
    forms: tuple[str, ...] = ()
    empty: int = 0
    reads: str = ""
    second: int | None = None
    key_bias: bool = False
    buckets: tuple[int, ...] = ()
    warm: int = 0
    static: bool = False
    held: int = 0
    evict: int = 0
    images: int = 2
    max_batch: int = 4
    max_length: int = 200
    max_positions: int = 400
    calls: list[str] = field(default_factory=list)

    def __post_init__(self):
        random = np.random.default_rng(7)
        shape = {"pixels": (12, HIDDEN), "places": (PATCHES, HIDDEN), "table": (VOCABULARY, HIDDEN)}
        shape["head"] = (HIDDEN, VOCABULARY)
        for layer in range(2):
            shape |= {f"{layer}.{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "o", "up")}
        self.weights = {name: random.normal(size=size) / np.sqrt(size[0]) for name, size in shape.items()}
        for name in ("0.o", "1.o", "0.q", "1.q"):
            self.weights[name] *= 3  # what went before counts, so that answers differ

    @property
    def prefills(self):
        """For each part that reads prompts, how many rows of a span it leaves to the second layer."""
        if self.buckets:
            return {f"prefill.{size}": size for size in self.buckets}
        return {**({"prefill.warm": self.keep} if self.warm else {}), "prefill": self.second}

    @property
    def capacity(self):
        return [self.max_length, self.max_length - self.images * (self.keep - self.second)] if self.static else []

    def parts(self):
        split = {name: partial(self.prefill, name=name) for name in self.prefills} | {"decode": self.decode}
        split |= {"evict": self.evicted} if self.evict else {}
        made = {"vision": self.vision, "embed": self.embed, **(split if self.second else {"decoder": self.decoder})}
        made |= {f"vision.{name}": partial(self.vision, name=name) for name in self.forms}
        return made | ({"text": self.text} if self.reads == "clip" else {})

    # The parts.

    def vision(self, feeds, name=""):
        self.calls.append(f"vision.{name}".strip("."))
        pixels = feeds["pixel_values"]
        assert (pixels.ndim == 5) == bool(name)
        split = pixels.reshape(-1, 3, GRID, 2, GRID, 2).transpose(0, 2, 4, 1, 3, 5)
        patches = split.reshape(-1, PATCHES, 12) @ self.weights["pixels"] + self.weights["places"]
        patches = patches.reshape(len(pixels), -1, HIDDEN)
        score = np.abs(patches).sum(-1) + self._agreement(patches, feeds)
        best = np.argsort(-score, axis=1, kind="stable")[:, : self.keep + MORE.get(name, 0)]
        full = best.shape[1] - self.empty
        kept = np.concatenate([np.sort(best[:, :full], axis=1), np.full_like(best[:, full:], -2)], 1)
        embeds = np.take_along_axis(patches, kept.clip(0)[..., None], 1) * (kept >= 0)[..., None]
        carried = np.take_along_axis(score, kept.clip(0), 1) * (kept >= 0)
        carried = {"carry.score": carried.astype(np.float32)}
        return {"image_embeds": embeds.astype(np.float32), "kept_indices": kept, **carried}

    def _agreement(self, patches, feeds):
        """How well patches [B,n,D] agree with the words, which are much to say in the choice."""
        words, mask = (feeds.get(f"{n}", 0) for n in {"clip": ("clip_text", "clip_mask")}.get(self.reads, TEXT))
        if not self.reads:
            return 0
        mean = (words * mask[..., None]).sum(1) / mask.sum(1, keepdims=True).clip(1)
        return 20 * np.einsum("bnd,bd->bn", patches, mean)

    def text(self, feeds):
        self.calls.append("text")
        ids, mask = feeds["input_ids"], feeds["attention_mask"][..., None]
        return {"text_embeds": ((self.weights["table"][ids] * mask).sum(1) / mask.sum(1)).astype(np.float32)}

    def embed(self, feeds):
        ids = feeds["input_ids"]
        embeds = self.weights["table"][ids].astype(np.float32)
        places = (ids == IMAGE) | (ids == VIDEO)
        assert feeds["image_embeds"].shape[1:] == (HIDDEN,)
        embeds[places] = feeds["image_embeds"][: places.sum()]
        return {"inputs_embeds": embeds}

    def decoder(self, feeds):
        self.calls.append("decoder")
        mask, positions = feeds["attention_mask"], feeds["position_ids"]
        return self._decode(feeds, lambda _: mask, lambda _: positions, lambda _: np.zeros(mask.shape))

    def decode(self, feeds):
        self.calls.append("decode")
        new = feeds["inputs_embeds"].shape[1]
        outputs = self._decode(
            feeds,
            lambda layer: feeds[f"attention_mask.{layer}"],
            lambda layer: _ranks(feeds[f"attention_mask.{layer}"])[:, -new:] if self.evict
            else feeds[f"position_ids.{layer}"],
            lambda layer: feeds.get(f"key_bias.{layer}", np.zeros(feeds[f"attention_mask.{layer}"].shape)),
        )  # fmt: skip
        return outputs | (_newest(outputs, 1, feeds["attention_mask.1"], self.held) if self.held else {})

    def evicted(self, feeds):
        self.calls.append("evict")
        past = {name.replace("past_key_values", "present"): values for name, values in feeds.items()}
        outputs = {}
        for layer in range(2):
            outputs |= _newest(past, layer, feeds[f"attention_mask.{layer}"], self.evict)
        following = [outputs[f"kept_mask.{layer}"].sum(1) for layer in range(2)]
        return outputs | {"next_position": np.stack(following, 1)}

    def prefill(self, feeds, name="prefill"):
        self.calls.append(name)
        mask, positions = feeds["attention_mask"], feeds["position_ids"]
        outputs, hidden = {}, feeds["inputs_embeds"].astype(np.float64)
        hidden, outputs["present.0.key"], outputs["present.0.value"] = self._layer(
            0, hidden, mask, positions, np.zeros(mask.shape)
        )
        starts = feeds.get("span_starts", np.zeros((len(mask), 0), np.int64))
        assert not self.buckets or mask.shape[1] == self.prefills[name]
        rows = self._rows_kept(mask, starts, feeds.get("carry.score"), self.prefills[name])
        hidden = np.take_along_axis(hidden, rows[..., None], 1)
        later = [np.take_along_axis(array, np.broadcast_to(rows, (*array.shape[:-1], rows.shape[1])), -1)
                 for array in (mask, positions)]  # fmt: skip
        in_span = (rows[..., None] >= starts[:, None]) & (rows[..., None] < starts[:, None] + self.keep)
        bias = in_span.any(-1) * (0.7 if self.key_bias else 0.0)
        hidden, outputs["present.1.key"], outputs["present.1.value"] = self._layer(1, hidden, *later, bias)
        following = (positions * mask).reshape(-1, *mask.shape).max((0, 2)) + 1
        outputs |= {
            "attention_mask.0": mask,
            "attention_mask.1": later[0],
            "logits": self._logits(hidden, later[0]),
        }
        outputs |= {"next_position": np.stack([following, following], 1)}
        if self.held:
            cut = _newest(outputs, 1, later[0], self.held)
            outputs |= cut | {"attention_mask.1": cut.pop("kept_mask.1")}
        return outputs | ({"key_bias.1": bias.astype(np.float32)} if self.key_bias else {})

    # Their inside.

    def _decode(self, feeds, mask, positions, bias):
        hidden, outputs = feeds["inputs_embeds"].astype(np.float64), {}
        new = hidden.shape[1]
        for layer in range(2):
            past = [feeds[f"past_key_values.{layer}.{kind}"] for kind in ("key", "value")]
            assert past[0].shape[2] > 0
            slots = feeds.get(f"slots.{layer}") if self.static else None
            hidden, outputs[f"present.{layer}.key"], outputs[f"present.{layer}.value"] = self._layer(
                layer, hidden, mask(layer), positions(layer), bias(layer), past, slots
            )
        fresh = np.take_along_axis(mask(0), feeds["slots.0"], 1) if self.static else mask(0)[:, -new:]
        return outputs | {"logits": self._logits(hidden, fresh)}

    def _layer(self, layer, hidden, mask, positions, bias, past=None, slots=None):
        def heads(name):
            return (hidden @ self.weights[f"{layer}.{name}"]).reshape(*hidden.shape[:2], HEADS, WIDTH).swapaxes(1, 2)

        query, key, value = _turned(heads("q"), positions), heads("k"), heads("v")
        key = key if self.evict else _turned(key, positions)
        if slots is not None:
            key, value = (_written(*pair, slots) for pair in zip(past, (key, value), strict=True))
        elif past:
            key, value = np.concatenate([past[0], key], 2), np.concatenate([past[1], value], 2)
        count, new = key.shape[2], query.shape[2]
        seen = _turned(key, _ranks(mask)) if self.evict else key
        places = np.arange(new)[None] + count - new if slots is None else slots
        causal = np.arange(count) <= places[..., None]
        allowed = causal[:, None] & (mask[:, None, None] > 0)
        scores = query @ seen.swapaxes(2, 3) / np.sqrt(WIDTH) + bias[:, None, None]
        weights = np.exp(np.where(allowed, scores - scores.max(-1, keepdims=True), NEGATIVE)) * allowed
        mixed = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300) @ value
        hidden = hidden + mixed.swapaxes(1, 2).reshape(hidden.shape) @ self.weights[f"{layer}.o"]
        hidden = hidden + np.tanh(hidden @ self.weights[f"{layer}.up"])
        return hidden, key.astype(np.float32), value.astype(np.float32)

    def _logits(self, hidden, mask):
        last = (mask.shape[1] - 1 - mask[:, ::-1].argmax(1))[:, None, None]  # empty slots stand before it
        row = np.take_along_axis(hidden, last, 1)
        return (row @ self.weights["head"]).astype(np.float32)

    def _rows_kept(self, mask, starts, scores, best):
        """The rows that go on to the second layer: of every span so many of the best, and all rows of text."""
        dropped = np.zeros(mask.shape, bool)
        for b, span in np.ndindex(starts.shape):
            worst = np.argsort(-scores[b, span], kind="stable")[best:]
            dropped[b, starts[b, span] + worst] = True
        return np.stack([np.flatnonzero(~row) for row in dropped])


def _turned(heads, positions):
    """Rotates halves of every head by angles that grow with the position, on every axis in its own way."""
    speeds = np.array([[1.0, 0.1]] if positions.ndim == 2 else [[0.5, 0.1], [0.3, -0.2], [0.2, 0.2]])
    angles = np.einsum("abt,af->btf", positions.reshape(-1, *positions.shape[-2:]), speeds)[:, None]
    even, odd = heads[..., :2], heads[..., 2:]
    return np.concatenate(
        [even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)], -1
    )


def _ranks(mask):
    """For each slot, how many before it hold a token."""
    return (mask.cumsum(1) - 1).clip(0)


def _written(past, new, slots):
    past = past.copy()
    for b, row in enumerate(slots):
        assert (row < past.shape[2]).all()
        past[b][:, row] = new[b]
    return past


def _newest(outputs, layer, mask, count):
    """Of one layer's cache so many slots that hold a token, in order, and which of them do."""
    order = [np.flatnonzero(row)[-count:] for row in mask]
    kept = np.stack([np.arange(count) < len(each) for each in order]).astype(np.int64)
    order = np.stack([np.pad(each, (0, count - len(each))) for each in order])
    names = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    cut = {name: np.take_along_axis(outputs[name], order[:, None, :, None], 2) for name in names}
    return cut | {f"kept_mask.{layer}": kept}
