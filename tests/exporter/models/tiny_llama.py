"""A LLaMA, Mistral or Qwen2 of a few thousand random weights, and its checkpoint with everything an export reads."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
import transformers

from exporter.demo_llava import train_tokenizer
from tests.exporter.tiny_llava import write as write_weights

DATA = Path(str(files("exporter"))) / "data" / "llava-1.5"
KINDS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def tiny_model(kind="llama", *, layers=4, width=32, heads=4, kv_heads=2):
    """The stock model, random, eager."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=704,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        **({"sliding_window": None} if kind == "mistral" else {}),
    )
    config.architectures = [KINDS[kind]]
    made = getattr(transformers, KINDS[kind])._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for layer in made.model.layers:  # attention that looks at something
            layer.self_attn.q_proj.weight.mul_(6)
    return made


def write(folder, model, dtype=torch.float32):
    """Save a checkpoint: weights, tokenizer, stop tokens."""
    write_weights(folder, model, (), dtype)
    for name in ("generation_config.json", "tokenizer_config.json"):
        shutil.copyfile(DATA / name, folder / name)
    train_tokenizer(DATA / "sentences.txt").save(str(folder / "tokenizer.json"))
    stored = json.loads((folder / "config.json").read_text())
    assert stored["architectures"] == model.config.architectures
    return folder
