"""Random weights in the geometry and the file layout of real checkpoints, streamed to disk.

    python tools/big_checkpoint.py llava-7b /tmp/llava-7b             13.5 GB of real bytes
    python tools/big_checkpoint.py llama-70b /tmp/llama-70b --sparse  headers and holes: 138 GB that take none

No more than one block of numbers is ever in memory. Geometries are named by their decoder's parameters.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import click
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlavaForConditionalGeneration

from exporter.demo_llava import HUB_NAMES, SHARPEN, train_tokenizer

# Decoder layers, width, MLP width, heads, key heads; all with a vocabulary of 32064.
GEOMETRIES = {
    "llava-0.1b": (12, 640, 1728, 10, 10),
    "llava-0.4b": (24, 1024, 3584, 16, 16),
    "llava-1.1b": (22, 2048, 5632, 32, 4),
    "llava-7b": (32, 4096, 11008, 32, 32),
    "llama-70b": (80, 8192, 28672, 64, 8),
}
TEXT = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
CLIP_L = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
VOCABULARY = 32064
SHARD_BYTES = 5 * 10**9
POOL = 2**24 - 3  # prime: no two rows of a matrix are the same numbers
DATA = Path(str(files("exporter"))) / "data" / "llava-1.5"
Shapes = Mapping[str, tuple[int, ...]]


def config_of(geometry: str) -> dict[str, Any]:
    """config.json."""
    config: dict[str, Any] = json.loads((DATA / "config.json").read_text(encoding="utf-8"))
    text = config["text_config"] | dict(zip(TEXT, GEOMETRIES[geometry], strict=True)) | {"vocab_size": VOCABULARY}
    if geometry.startswith("llama"):
        return text  # type: ignore[no-any-return]
    tower = config["vision_config"] | CLIP_L | {"projection_dim": 768}
    return {**config, "text_config": text, "vision_config": tower, "vocab_size": VOCABULARY}


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, by its name on the hub, in the model's order."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        llava = hasattr(config, "vision_config")
        model = LlavaForConditionalGeneration(config) if llava else AutoModelForCausalLM.from_config(config)
    named = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {_hub_name(name): shape for name, shape in named.items()} if llava else named


def _hub_name(name: str) -> str:
    new, old = next((new, old) for new, old in HUB_NAMES if name.startswith(new))
    return old + name.removeprefix(new)


def in_shards(shapes: Shapes) -> list[dict[str, tuple[int, ...]]]:
    """Tensors one after the other, about SHARD_BYTES to a file."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = SHARD_BYTES
    for name, shape in shapes.items():
        room -= 2 * math.prod(shape)
        if room < 0 and shards[-1]:
            shards.append({})
            room = SHARD_BYTES - 2 * math.prod(shape)
        shards[-1][name] = shape
    return shards


def write_shard(path: Path, shapes: Shapes, numbers: Tensor | None) -> None:
    """One safetensors file of fp16; without `numbers` its data is one hole."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        span = [end, end := end + 2 * math.prod(shape)]
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": span}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if numbers is None:
            file.truncate(8 + len(text) + end)
            return
        for name, shape in shapes.items():
            write_tensor(file, name, shape, numbers)


def write_tensor(file: BinaryIO, name: str, shape: tuple[int, ...], numbers: Tensor) -> None:
    """One tensor: norms around one, embeddings of unit size, matrices keep the scale of what they multiply."""
    scale = 0.02 if len(shape) == 1 else 1.0 if "embed_tokens" in name else math.prod(shape[1:]) ** -0.5
    if ".22.self_attn.q_proj" in name or ".22.self_attn.k_proj" in name:  # of the tower's scored layer, too
        scale *= SHARPEN
    shift = float(len(shape) == 1 and "norm" in name and name.endswith("weight"))
    blocks = _blocks(sum(name.encode()) * 7919, math.prod(shape), numbers)
    file.writelines((block * scale + shift).half().numpy().data for block in blocks)


def _blocks(start: int, count: int, numbers: Tensor) -> Iterator[Tensor]:
    """`count` of the numbers from some place on, round and round."""
    while count:
        place = start % len(numbers)
        block = numbers[place : place + min(count, 2**21)]
        yield block
        start, count = start + len(block), count - len(block)


def write_checkpoint(geometry: str, folder: Path, *, sparse: bool) -> None:
    """The whole directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in DATA.iterdir():
        if file.suffix != ".txt":
            shutil.copyfile(file, folder / file.name)
    train_tokenizer(DATA / "sentences.txt").save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config_of(geometry), indent=2), encoding="utf-8")
    shards = in_shards(shapes_of(folder))
    numbers = None if sparse else torch.randn(POOL, generator=torch.Generator().manual_seed(0))
    where: dict[str, str] = {}
    for number, shapes in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / name, shapes, numbers)
        where |= dict.fromkeys(shapes, name)
        print(f"{folder / name}: {(folder / name).stat().st_size / 1e9:.2f} GB")
    index = {"metadata": {"total_size": 2 * sum(map(math.prod, (s for each in shards for s in each.values())))}}
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": where}, indent=2))


@click.command(help=__doc__)
@click.argument("geometry", type=click.Choice(list(GEOMETRIES)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sparse", is_flag=True, help="Holes instead of numbers.")
def main(geometry: str, out: Path, sparse: bool) -> None:  # noqa: FBT001
    write_checkpoint(geometry, out, sparse=sparse)


if __name__ == "__main__":
    main()
