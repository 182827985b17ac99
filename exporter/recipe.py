"""The frozen description of one export; it is saved in the bundle and can be replayed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from engines.registry import Dtype
from exporter.form import Kind


@dataclass(frozen=True)
class Recipe:
    """What the user asked for.

    Attributes:
        model: checkpoint directory, hub id, `demo` or `demo:llava-1.5`.
        method: a reducer's name.
        keep: the budget as written; None for methods that take none.
        params: the method's parameters that differ from the authors' defaults, as text.
        targets: what engines are built for, `auto` included.
        dtype: precision of every target, None for each target's own.
        max_batch: largest batch of every engine.
        max_length: most cache slots of one sequence, pictures included; None: the model's limit, at most 2048.
        images: pictures a prompt may hold where the decoder itself is cut.
        gpu: the GPU whose ceiling is printed.
        input: "image" or "video", where the model takes both.
        grids: tile grids (`ROWSxCOLS`) of models that cut pictures into tiles; none: all that the checkpoint allows.
        image_size: `WIDTHxHEIGHT` of models that take pictures of any size.
        frames: frames of a video.
        aux: further files by role: `clip`, a checkpoint; `router`, trained weights of the method.
        buckets: prompt lengths that methods which cut the prompt itself are exported for.
        kv: whether decode grows its caches, or writes into ones of constant length.
        opset: of every graph: 23, 20 for TensorRT 10.3, 24 for caches that are written in place.
        indices: type of inputs and outputs that are whole numbers.
        weights: whether shards come into the bundle as files of its own or as hard links.
        parity: what is compared with PyTorch: all, the vision parts alone, nothing.
        plugin: whether parts that select come a second time, for a TensorRT plugin to do it.
        later: targets whose engines are built into the bundle later, perhaps on another machine, with the precision of
            each, None for its own: the graphs that they need are exported now.
    """

    model: str = "demo"
    method: str = "fastervlm"
    keep: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ("auto",)
    dtype: Dtype | None = None
    max_batch: int = 4
    max_length: int | None = None
    images: int = 1
    gpu: str = "h200"
    input: Kind | None = None
    grids: tuple[str, ...] = ()
    image_size: str | None = None
    frames: int | None = None
    aux: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[int, ...] = ()
    kv: Literal["growing", "static"] = "growing"
    opset: int = 23
    indices: Literal["int64", "int32"] = "int64"
    weights: Literal["copy", "link"] = "copy"
    parity: Literal["full", "vision", "none"] = "full"
    plugin: bool = False
    later: Mapping[str, Dtype | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A directory name that tells exports apart."""
        model = self.model.rstrip("/").rsplit("/", 1)[-1].replace(":", "-").strip(".-") or "model"
        keep = f"-{self.keep}" if self.keep else ""
        method = re.sub(r"[^\w.+-]", "-", self.method)
        return f"{model}-{method}{keep}".replace("%", "pct")
