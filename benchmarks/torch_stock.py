"""Hugging Face's own model over one copy of the weights, whatever computes its attention."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from benchmarks.work import Bench, threads
from exporter import stock
from exporter.models.llava import Llava
from exporter.trace import DTYPES


def stock_model(bench: Bench, attention: str) -> Any:
    """`LlavaForConditionalGeneration` with "eager" or "sdpa" attention; all share their parameters."""
    return bench.once(("stock", attention), lambda: _shared(bench, attention))


def _shared(bench: Bench, attention: str) -> Any:
    threads()
    weights = bench.once("weights", lambda: _weights(bench))
    with torch.device("meta"):
        model: Any = stock.empty(Llava.architectures[0], deepcopy(bench.config), DTYPES[bench.dtype], attention)
    model.load_state_dict(weights, strict=True, assign=True)
    Llava(bench.config, model).restore_buffers()
    return model.to(bench.device)


def _weights(bench: Bench) -> dict[str, torch.Tensor]:
    loaded = stock.loaded(Llava.architectures[0], bench.model)
    return {name: value.to(bench.device, DTYPES[bench.dtype]) for name, value in loaded.state_dict().items()}


def on_device(bench: Bench, values: Any) -> torch.Tensor:
    """An array where the model is, floats in its precision."""
    tensor = torch.from_numpy(values).to(bench.device)
    return tensor.to(DTYPES[bench.dtype]) if tensor.is_floating_point() else tensor
