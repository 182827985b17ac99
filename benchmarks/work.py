"""What every line of a comparison computes: the same checkpoint, pixels, prompt, budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.machine import cpus
from exporter.build_parts import Tracer
from exporter.draft import Draft
from exporter.progress import Reporter
from exporter.publish import place
from exporter.recipe import Recipe

BEFORE, TEXT = 5, 40  # words of the prompt: before the picture, in all
SIDES = ("dense", "pruned")
METHOD = "fastervlm"


@dataclass
class Bench:
    """One checkpoint in one precision on one device, and what lines share of it.

    `root` is a scratch folder. Nothing is loaded before a line asks for it, and everything at most once.
    """

    model: Path
    root: Path
    keep: int = 64
    dtype: str = "fp32"
    device: str = "cpu"
    kept: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave for this key the first time."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def graphs(self, side: str) -> dict[str, Path]:
        """Our ONNX parts, dense or pruned, beside the weights."""
        return self.once(("graphs", side), lambda: self._traced(side))  # type: ignore[no-any-return]

    def _traced(self, side: str) -> dict[str, Path]:
        how = ("none", None) if side == "dense" else (METHOD, str(self.keep))
        start = time.perf_counter()
        draft = Draft.of(Recipe(model=str(self.model), method=how[0], keep=how[1], targets=("ort-cpu",)))
        folder = self.root / "onnx"
        if not folder.exists():
            folder.mkdir(parents=True)
            for file in draft.checkpoint.files:
                place(draft.checkpoint.path(file), folder / file)
        found = {}
        for name, part in Tracer(draft, self.dtype, folder).all(Reporter(Console(quiet=True), 0)).items():
            found[name] = folder / f"{name}.{side}.{self.dtype}.onnx"
            place(part.file, found[name])
        self.kept["seconds", side] = time.perf_counter() - start
        return found

    @cached_property
    def config(self) -> Any:
        """The model's, by transformers."""
        from transformers import LlavaConfig

        return LlavaConfig.from_pretrained(self.model)

    def sync(self) -> None:
        """Wait until the device has done all that it was told."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()


@dataclass(frozen=True)
class Work:
    """One batch of it: random pictures, each in a prompt of TEXT words."""

    bench: Bench
    batch: int

    @cached_property
    def pixels(self) -> NDArray[np.float32]:
        """`[B,3,H,W]`, as a processor leaves them."""
        size = self.bench.config.vision_config.image_size
        return np.random.default_rng(0).standard_normal((self.batch, 3, size, size), np.float32)

    @cached_property
    def words(self) -> NDArray[np.int64]:
        """`[B,TEXT]` token ids."""
        return np.random.default_rng(1).integers(3, 700, (self.batch, TEXT))

    def tokens(self, rows: int) -> NDArray[np.int64]:
        """`[B,TEXT+rows]`: the words with the picture's places among them."""
        places = np.full((self.batch, rows), self.bench.config.image_token_id)
        return np.concatenate((self.words[:, :BEFORE], places, self.words[:, BEFORE:]), axis=1)


def threads() -> None:
    """Give PyTorch as many threads as the other engines take: all CPUs that this process may use."""
    import torch

    torch.set_num_threads(cpus())


def array(value: Any) -> NDArray[Any] | None:
    """Any library's tensor as an array on the host."""
    if value is None or isinstance(value, np.ndarray):
        return value
    return value.detach().float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()  # type: ignore[no-any-return]
