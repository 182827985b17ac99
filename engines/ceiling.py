"""The most that fewer visual tokens can give: FLOPs, KV bytes and roofline times, before and after.

A roofline takes the longer of computing and reading: max(FLOPs / peak, bytes / bandwidth). Weights are read
once however many tokens there are, so below `ridge` tokens in the batch, fewer tokens save no time at all.
One multiply-add = 2 FLOPs. These are floors of both sides, not forecasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engines.flops import Geometry, kv_bytes, layer_flops, prefill_flops, vision_flops
from engines.gpus import Gpu, gpu_named

OUTPUTS = (1, 10, 64)  # answer lengths for which the end-to-end time is given
BLOCK = 128  # 4-bit weights that share a scale
SCALE_BYTES = 2


@dataclass(frozen=True)
class Side:
    """Costs with one number of visual tokens: FLOPs and KV bytes of one sequence, seconds of the batch."""

    tokens: float  # visual tokens, mean over the decoder's layers
    llm_flops: float
    vision_flops: float
    kv_bytes: int
    decode_bytes: float  # read for the first decoded token: weights and cache
    prefill_s: float
    ttft_s: float  # vision and prefill: time to the first token
    total_s: dict[int, float]  # by number of generated tokens


@dataclass(frozen=True)
class Ceiling:
    """Both sides on one GPU."""

    gpu: Gpu
    batch: int
    weight_bytes: float
    before: Side
    after: Side

    @property
    def flop_ratio(self) -> float:
        """FLOPs of the decoder's prefill, before over after."""
        return self.before.llm_flops / self.after.llm_flops

    @property
    def flop_ratio_with_vision(self) -> float:
        """FLOPs of vision and prefill, before over after."""
        return (self.before.llm_flops + self.before.vision_flops) / (self.after.llm_flops + self.after.vision_flops)

    @property
    def prefill_speedup(self) -> float:
        """Most that prefill can gain."""
        return self.before.prefill_s / self.after.prefill_s

    @property
    def ttft_speedup(self) -> float:
        """Most that the time to the first token can gain."""
        return self.before.ttft_s / self.after.ttft_s

    def total_speedup(self, outputs: int) -> float:
        """Most that the whole answer of so many tokens (one of OUTPUTS) can gain."""
        return self.before.total_s[outputs] / self.after.total_s[outputs]


def ceiling(  # noqa: PLR0913 - all that there is to vary
    geometry: Geometry,
    tokens_before: int | Sequence[int],
    tokens_after: int | Sequence[int],
    text: int = 40,
    gpu: str = "h200",
    batch: int = 1,
    weight_bytes: float = 2.0,
    *,
    cached: Sequence[int] | None = None,
) -> Ceiling:
    """Compare two numbers of visual tokens.

    Args:
        geometry: The model.
        tokens_before: Visual tokens of one prompt in the decoder; a sequence gives them layer by layer.
        tokens_after: The same, pruned.
        text: Other tokens of the prompt.
        gpu: A name of `engines.gpus.GPUS`.
        batch: Prompts at once.
        weight_bytes: Bytes per decoder weight: 2 for fp16, see `coded_bytes` for others. Computing stays fp16.
        cached: Slots of each layer's cache behind the pruned prompt, text included; by default all rows that it ran on.

    Raises:
        UserError: The GPU is not known.
    """
    chip = gpu_named(gpu)
    run = (chip, batch, weight_bytes)
    before, after = (
        _side(geometry, _per_layer(geometry, tokens), text, run, slots)
        for tokens, slots in ((tokens_before, None), (tokens_after, cached))
    )
    return Ceiling(chip, batch, weight_bytes, before, after)


def ridge(gpu: Gpu, weight_bytes: float = 2.0) -> float:
    """Return the tokens in the whole batch below which prefill waits for weights, not for arithmetic."""
    return weight_bytes * gpu.flops / (2 * gpu.bandwidth)


def coded_bytes(geometry: Geometry, bits: int) -> float:
    """Bytes per decoder weight with `--weights int8` or `int4`, scales counted; the head has 8 bits in both.

    4 bits and a scale for every 128 of them: 4.125 bits a weight in the layers. Scales of whole columns are left out.
    """
    head = geometry.d * geometry.vocab
    layers = geometry.parameters - head
    each = 1.0 if bits == 8 else bits / 8 + SCALE_BYTES / BLOCK
    return (each * layers + head) / geometry.parameters


def _per_layer(geometry: Geometry, tokens: int | Sequence[int]) -> list[int]:
    counts = [tokens] * geometry.layers if isinstance(tokens, int) else list(tokens)
    if len(counts) != geometry.layers:
        raise ValueError(f"{len(counts)} token counts for {geometry.layers} decoder layers")
    return counts


def _side(
    geometry: Geometry, tokens: list[int], text: int, run: tuple[Gpu, int, float], slots: Sequence[int] | None
) -> Side:
    lengths = [count + text for count in tokens]
    cached = lengths if slots is None else list(slots)
    prefill, vision = _prefill_s(geometry, lengths, run), _vision_s(geometry, run)
    return Side(
        tokens=sum(tokens) / len(tokens),
        llm_flops=prefill_flops(geometry, lengths),
        vision_flops=vision_flops(geometry),
        kv_bytes=kv_bytes(geometry, cached),
        decode_bytes=run[2] * geometry.parameters + kv_bytes(geometry, cached),
        prefill_s=prefill,
        ttft_s=vision + prefill,
        total_s={n: vision + prefill + _decode_s(geometry, cached, n - 1, run) for n in OUTPUTS},
    )


def _prefill_s(geometry: Geometry, lengths: list[int], run: tuple[Gpu, int, float]) -> float:
    gpu, batch, weight_bytes = run
    read = weight_bytes * geometry.parameters + batch * kv_bytes(geometry, lengths)
    return gpu.seconds(batch * prefill_flops(geometry, lengths), read)


def _vision_s(geometry: Geometry, run: tuple[Gpu, int, float]) -> float:
    gpu, batch, _ = run
    d, f = geometry.tower_d, geometry.tower_f
    weights = geometry.tower_layers * (4 * d * d + (3 if geometry.tower_gated else 2) * d * f)
    return gpu.seconds(batch * vision_flops(geometry), 2.0 * weights)  # the tower stays in fp16


def _decode_s(geometry: Geometry, lengths: list[int], steps: int, run: tuple[Gpu, int, float]) -> float:
    """Seconds of so many single-token steps; each reads all weights and the whole cache."""
    gpu, batch, weight_bytes = run
    total = 0.0
    for step in range(1, steps + 1):
        rows = [length + step for length in lengths]
        flops = sum(layer_flops(geometry, 1, row - 1) for row in rows) + 2 * geometry.d * geometry.vocab
        total += gpu.seconds(batch * flops, weight_bytes * geometry.parameters + batch * kv_bytes(geometry, rows))
    return total
