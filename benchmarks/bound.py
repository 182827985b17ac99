"""ONNX Runtime on a device: inputs and outputs stay there, bound to PyTorch's memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from benchmarks.machine import cpus
from benchmarks.ours import decoder_feeds
from benchmarks.timing import Run
from benchmarks.torch_stock import on_device
from benchmarks.work import Work
from engines.errors import UserError
from exporter.trace import DTYPES

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
ELEMENTS = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
    torch.int64: onnx.TensorProto.INT64,
}
TENSORS = {"float": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64}


class Bound:
    """One graph on one device.

    Raises:
        UserError: ONNX Runtime cannot use the device.
    """

    def __init__(self, path: Path, device: str) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = cpus()
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.log_severity_level = 3
        self.device, wanted = device, PROVIDERS[device]
        self.session = onnxruntime.InferenceSession(path, settings, providers=[wanted])
        if wanted not in self.session.get_providers():
            raise UserError(f"ONNX Runtime has no {wanted} here: pip install onnxruntime-gpu, with its CUDA libraries")
        self.types = {port.name: TENSORS[port.type[len("tensor(") : -1]] for port in self.session.get_outputs()}

    def run(self, feeds: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """Outputs of these shapes as tensors; all others are computed and dropped."""
        binding = self.session.io_binding()
        for name, value in feeds.items():
            assert value.is_contiguous()
            place = (self.device, 0, ELEMENTS[value.dtype], tuple(value.shape), value.data_ptr())
            binding.bind_input(name, *place)
        found = {}
        for name, kind in self.types.items():
            if name not in shapes:
                binding.bind_output(name, self.device)
                continue
            found[name] = torch.empty(shapes[name], dtype=kind, device=self.device)
            binding.bind_output(name, self.device, 0, ELEMENTS[kind], shapes[name], found[name].data_ptr())
        self.session.run_with_iobinding(binding)
        return found


def bound_run(work: Work, side: str) -> Run:
    """Our parts, bound; dense and pruned share decoder and embeddings."""
    bench, config = work.bench, work.bench.config
    paths = {"vision": bench.graphs(side)["vision"]}
    paths |= {name: bench.graphs("dense")[name] for name in ("embed", "decoder")}
    parts = {name: bench.once(("bound", path), partial(Bound, path, bench.device)) for name, path in paths.items()}
    rows = bench.keep if side == "pruned" else (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    width, pixels = config.text_config.hidden_size, on_device(bench, work.pixels)
    tokens = torch.from_numpy(work.tokens(rows)).to(bench.device)
    length = tokens.shape[1]
    blank = torch.empty((work.batch, length, width), dtype=DTYPES[bench.dtype]).float().numpy()
    fixed = {name: on_device(bench, value) for name, value in decoder_feeds(work, blank).items()}
    seen = {"image_embeds": (work.batch, rows, width), "kept_indices": (work.batch, rows)}

    def vision() -> tuple[Any, Any]:
        found = parts["vision"].run({"pixel_values": pixels}, seen)
        return found["image_embeds"], found["kept_indices"]

    def prefill(looked: tuple[Any, Any]) -> Any:
        feeds = {"input_ids": tokens, "image_embeds": looked[0].reshape(-1, width)}
        embeds = parts["embed"].run(feeds, {"inputs_embeds": (work.batch, length, width)})
        bench.sync()
        shape = {"logits": (work.batch, 1, config.text_config.vocab_size)}
        return parts["decoder"].run({**fixed, **embeds}, shape)["logits"][:, 0]

    return Run(vision, prefill, {})
