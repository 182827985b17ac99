"""What one prompt costs: FLOPs and KV bytes from a model's sizes. One multiply-add = 2 FLOPs."""

from collections.abc import Sequence
from dataclasses import dataclass

KV_BYTES = 2  # bytes per cached number, fp16


@dataclass(frozen=True)
class Geometry:
    """The sizes that decide the cost of a vision-language model.

    Decoder: layers, d = width, d_kv = key width, f = MLP width, vocab. Tower: the layers that are run, width,
    MLP width, rows of one view (with CLS), whether the MLP is gated, views (crops, frames) of one prompt.
    projector_flops: of everything between tower and decoder, for one prompt.
    """

    layers: int
    d: int
    d_kv: int
    f: int
    vocab: int
    tower_layers: int = 0
    tower_d: int = 0
    tower_f: int = 0
    tower_tokens: int = 0
    tower_gated: bool = False
    views: int = 1
    projector_flops: float = 0.0

    @property
    def parameters(self) -> int:
        """Decoder weights that one pass reads: all matrices and the head, not the embedding table."""
        layer = 2 * self.d * self.d + 2 * self.d * self.d_kv + 3 * self.d * self.f
        return self.layers * layer + self.d * self.vocab


def layer_flops(geometry: Geometry, rows: int, cached: int = 0) -> float:
    """FLOPs of one decoder layer on `rows` new tokens: projections, causal half of the square, gated MLP."""
    d, attended = geometry.d, 2 * rows * rows + 4 * rows * cached
    return 2 * rows * d * (2 * d + 2 * geometry.d_kv) + attended * d + 6 * rows * d * geometry.f


def prefill_flops(geometry: Geometry, lengths: Sequence[int]) -> float:
    """FLOPs of prefill with these sequence lengths, one per layer; logits of the last token only."""
    return sum(layer_flops(geometry, rows) for rows in lengths) + 2 * geometry.d * geometry.vocab


def papers_macs(geometry: Geometry, lengths: Sequence[int]) -> float:
    """Multiply-adds of the decoder's layers as papers on pruning count: 4nd^2 + 2n^2 d + 3ndm, the whole square."""
    d, kv = geometry.d, geometry.d_kv
    return sum(n * d * (2 * d + 2 * kv) + 2 * n * n * d + 3 * n * d * geometry.f for n in lengths)


def vision_flops(geometry: Geometry) -> float:
    """FLOPs of the tower (without patch convolution, under 0.2 %) and of what joins it to the decoder."""
    n, d = geometry.tower_tokens, geometry.tower_d
    mlp = (6 if geometry.tower_gated else 4) * n * d * geometry.tower_f
    return geometry.views * geometry.tower_layers * (8 * n * d * d + mlp + 4 * n * n * d) + geometry.projector_flops


def kv_bytes(geometry: Geometry, lengths: Sequence[int]) -> int:
    """Bytes of keys and values of one sequence with these lengths, one per layer."""
    return 2 * KV_BYTES * geometry.d_kv * sum(lengths)
