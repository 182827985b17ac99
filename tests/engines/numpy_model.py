"""A tiny vision-language model in NumPy that keeps the tensor contract: real attention, masks, positions."""

from dataclasses import dataclass, field

import numpy as np

IMAGE, PIXELS, GRID, HEADS, WIDTH, VOCABULARY = 4, 6, 3, 2, 4, 20
PATCHES, HIDDEN = GRID * GRID, HEADS * WIDTH
NEGATIVE = -1e30


@dataclass
class NumpyModel:
    """Two layers; `second` (if set) is how many rows of a picture the second layer keeps: a split decoder."""

    positions: str = "renumber"
    keep: int = 5
    second: int | None = None
    key_bias: bool = False
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

    def parts(self):
        split = {"prefill": self.prefill, "decode": self.decode}
        return {
            "vision": self.vision,
            "embed": self.embed,
            **(split if self.second else {"decoder": self.decoder}),
        }

    # The parts.

    def vision(self, feeds):
        self.calls.append("vision")
        pixels = feeds["pixel_values"].reshape(-1, 3, GRID, 2, GRID, 2).transpose(0, 2, 4, 1, 3, 5)
        patches = pixels.reshape(-1, PATCHES, 12) @ self.weights["pixels"] + self.weights["places"]
        score = np.abs(patches).sum(-1)
        kept = np.sort(np.argsort(-score, axis=1, kind="stable")[:, : self.keep], axis=1)
        embeds = np.take_along_axis(patches, kept[..., None], 1).astype(np.float32)
        carried = np.take_along_axis(score, kept, 1).astype(np.float32)
        return {"image_embeds": embeds, "kept_indices": kept, "carry.score": carried}

    def embed(self, feeds):
        ids = feeds["input_ids"]
        embeds = self.weights["table"][ids].astype(np.float32)
        places = ids == IMAGE
        embeds[places] = feeds["image_embeds"].reshape(-1, HIDDEN)[: places.sum()]
        return {"inputs_embeds": embeds}

    def decoder(self, feeds):
        self.calls.append("decoder")
        mask, positions = feeds["attention_mask"], feeds["position_ids"]
        return self._decode(feeds, lambda _: mask, lambda _: positions, lambda _: np.zeros(mask.shape))

    def decode(self, feeds):
        self.calls.append("decode")
        return self._decode(
            feeds,
            lambda layer: feeds[f"attention_mask.{layer}"],
            lambda layer: feeds[f"position_ids.{layer}"],
            lambda layer: feeds.get(f"key_bias.{layer}", np.zeros(feeds[f"attention_mask.{layer}"].shape)),
        )

    def prefill(self, feeds):
        self.calls.append("prefill")
        mask, positions = feeds["attention_mask"], feeds["position_ids"]
        outputs, hidden = {}, feeds["inputs_embeds"].astype(np.float64)
        hidden, outputs["present.0.key"], outputs["present.0.value"] = self._layer(
            0, hidden, mask, positions, np.zeros(mask.shape)
        )
        starts = feeds["span_starts"]
        rows = self._rows_kept(mask, starts, feeds["carry.score"])
        hidden = np.take_along_axis(hidden, rows[..., None], 1)
        later = [np.take_along_axis(array, rows, 1) for array in (mask, positions)]
        in_span = (rows[..., None] >= starts[:, None]) & (rows[..., None] < starts[:, None] + self.keep)
        bias = in_span.any(-1) * (0.7 if self.key_bias else 0.0)
        hidden, outputs["present.1.key"], outputs["present.1.value"] = self._layer(1, hidden, *later, bias)
        following = (positions * mask).max(1) + 1
        outputs |= {
            "attention_mask.0": mask,
            "attention_mask.1": later[0],
            "logits": self._logits(hidden, later[0]),
        }
        outputs |= {"next_position": np.stack([following, following], 1)}
        return outputs | ({"key_bias.1": bias.astype(np.float32)} if self.key_bias else {})

    # Their inside.

    def _decode(self, feeds, mask, positions, bias):
        hidden, outputs = feeds["inputs_embeds"].astype(np.float64), {}
        new = hidden.shape[1]
        for layer in range(2):
            past = [feeds[f"past_key_values.{layer}.{kind}"] for kind in ("key", "value")]
            assert past[0].shape[2] > 0
            hidden, outputs[f"present.{layer}.key"], outputs[f"present.{layer}.value"] = self._layer(
                layer, hidden, mask(layer), positions(layer), bias(layer), past
            )
        return outputs | {"logits": self._logits(hidden, mask(0)[:, -new:])}

    def _layer(self, layer, hidden, mask, positions, bias, past=None):
        def heads(name):
            return (hidden @ self.weights[f"{layer}.{name}"]).reshape(*hidden.shape[:2], HEADS, WIDTH).swapaxes(1, 2)

        query, key, value = _turned(heads("q"), positions), _turned(heads("k"), positions), heads("v")
        if past:
            key, value = np.concatenate([past[0], key], 2), np.concatenate([past[1], value], 2)
        slots, new = key.shape[2], query.shape[2]
        causal = np.arange(slots)[None] <= np.arange(new)[:, None] + slots - new
        allowed = causal[None, None] & (mask[:, None, None] > 0)
        scores = query @ key.swapaxes(2, 3) / np.sqrt(WIDTH) + bias[:, None, None]
        weights = np.exp(np.where(allowed, scores - scores.max(-1, keepdims=True), NEGATIVE)) * allowed
        mixed = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300) @ value
        hidden = hidden + mixed.swapaxes(1, 2).reshape(hidden.shape) @ self.weights[f"{layer}.o"]
        hidden = hidden + np.tanh(hidden @ self.weights[f"{layer}.up"])
        return hidden, key.astype(np.float32), value.astype(np.float32)

    def _logits(self, hidden, mask):
        last = (mask.sum(1) - 1)[:, None, None]
        if self.second is not None:  # after a cut, valid rows need not be the first ones
            last = (mask.shape[1] - 1 - mask[:, ::-1].argmax(1))[:, None, None]
        row = np.take_along_axis(hidden, last, 1)
        return (row @ self.weights["head"]).astype(np.float32)

    def _rows_kept(self, mask, starts, scores):
        """The rows that go on to the second layer: of every span the `second` best, and all rows of text."""
        dropped = np.zeros(mask.shape, bool)
        for b, span in np.ndindex(starts.shape):
            worst = np.argsort(-scores[b, span], kind="stable")[self.second :]
            dropped[b, starts[b, span] + worst] = True
        return np.stack([np.flatnonzero(~row) for row in dropped])


def _turned(heads, positions):
    """Rotates halves of every head by angles that grow with the position."""
    angles = positions[:, None, :, None] * np.array([1.0, 0.1])
    even, odd = heads[..., :2], heads[..., 2:]
    return np.concatenate(
        [even * np.cos(angles) - odd * np.sin(angles), even * np.sin(angles) + odd * np.cos(angles)], -1
    )
