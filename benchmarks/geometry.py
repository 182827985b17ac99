"""Checkpoints of real widths with random weights: what time depends on is sizes, not numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from exporter.demo import demo_checkpoint
from exporter.demo_llava import HUB_NAMES, SHARPEN
from exporter.publish import place

SHARD = 2**30  # bytes after which a new file is begun
SEED = 15
TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}  # CLIP ViT-L/14-336
SMALL = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_key_value_heads": 16}
LLAMA = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}


@dataclass(frozen=True)
class Geometry:
    """Sizes that differ from `demo:llava-1.5`, which has 576 patches of 14 pixels and tiny widths.

    One tower layer more is stored than is used, as in the real model.
    """

    tower: Mapping[str, int] = field(default_factory=dict)
    decoder: Mapping[str, int] = field(default_factory=dict)

    def deep(self, layers: tuple[int, int] | None) -> Geometry:
        """With other numbers of tower and decoder layers."""
        if layers is None:
            return self
        tower, decoder = ({"num_hidden_layers": count} for count in layers)
        return replace(self, tower={**self.tower, **tower}, decoder={**self.decoder, **decoder})


GEOMETRIES = {
    "tiny": Geometry({"num_hidden_layers": 3}, {"num_hidden_layers": 2, "num_key_value_heads": 8}),
    "full": Geometry(TOWER | {"num_hidden_layers": 8}, SMALL | {"num_hidden_layers": 16}),
    "tower": Geometry(TOWER | {"num_hidden_layers": 24}, LLAMA | {"intermediate_size": 256, "num_hidden_layers": 2}),
    "7b": Geometry(TOWER | {"num_hidden_layers": 24}, LLAMA | {"num_hidden_layers": 32}),
}


def checkpoint(folder: Path, geometry: Geometry) -> Path:
    """Write LLaVA-1.5's files with these sizes and fp16 random weights into a new folder."""
    folder.mkdir(parents=True)
    for file in demo_checkpoint("demo:llava-1.5").iterdir():
        if file.suffix != ".safetensors" and "index" not in file.name:
            place(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= geometry.tower
    config["text_config"] |= geometry.decoder
    (folder / "config.json").write_text(json.dumps(config))
    _save(folder, _weights(folder))
    return folder


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its hub name; all layers of a stack share their numbers, so that 7 B take seconds.

    Matrices keep the scale of what they multiply; q and k of the scored layer are enlarged, so that scores are apart.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config: Any = LlavaConfig.from_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlavaForConditionalGeneration(config).state_dict().items()}
    scored = config.vision_config.num_hidden_layers + config.vision_feature_layer
    sharp = tuple(f"vision_tower.encoder.layers.{scored}.self_attn.{part}_proj.weight" for part in "qk")
    dice, drawn = torch.Generator().manual_seed(SEED), dict[str, Tensor]()
    for name, shape in shapes.items():
        kind = re.sub(r"layers\.\d+", "layers", name)
        if kind not in drawn:
            drawn[kind] = _draw(name, shape, dice)
        new, old = next(pair for pair in HUB_NAMES if name.startswith(pair[0]))
        yield old + name.removeprefix(new), (drawn[kind] * (SHARPEN if name.endswith(sharp) else 1.0)).half()


def _draw(name: str, shape: torch.Size, dice: torch.Generator) -> Tensor:
    """Norms start at one, embeddings at unit size, matrices at 1 / sqrt(inputs)."""
    noise = torch.randn(shape, generator=dice)
    if len(shape) == 1:
        return 0.02 * noise + float("norm" in name and name.endswith("weight"))
    return noise if "embed_tokens" in name else noise / torch.tensor(shape[1:]).prod().sqrt()


def _save(folder: Path, weights: Iterator[tuple[str, Tensor]]) -> None:
    """Shards of about SHARD bytes and their index; never more than one of them in memory."""
    where, shard, number = dict[str, str](), dict[str, Tensor](), 1

    def write() -> None:
        file = f"model-{number:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, value in weights:
        shard[name] = value
        if sum(each.nbytes for each in shard.values()) >= SHARD:
            write()
            number += 1
    if shard:
        write()
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_tiles(folder: Path) -> None:
    """Make LLaVA-NeXT of a checkpoint: a picture is seen whole and in 2 x 2 tiles, 2880 patches."""
    config = json.loads((folder / "config.json").read_text())
    side, width = config["vision_config"]["image_size"], config["text_config"]["hidden_size"]
    points = [[2 * side, 2 * side]]
    config |= {"architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next"}
    config |= {"image_grid_pinpoints": points}
    (folder / "config.json").write_text(json.dumps(config))
    stored = json.loads((folder / "preprocessor_config.json").read_text())
    stored |= {"image_grid_pinpoints": points, "do_pad": True, "aspect_ratio_setting": "anyres"}
    stored |= {"image_processor_type": "LlavaNextImageProcessor", "processor_class": "LlavaNextProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))
    save_file({"image_newline": torch.zeros(width).half()}, folder / "newline.safetensors", metadata={"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["image_newline"] = "newline.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
