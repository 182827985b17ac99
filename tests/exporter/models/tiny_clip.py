"""A CLIP of a few thousand random weights: the text tower beside a vision tower of the same width."""

import json

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from exporter.demo_llava import train_tokenizer
from tests.exporter.models.tiny_files import DATA


def write(folder, width=64):
    """A whole checkpoint; texts have at most 12 tokens."""
    text = {
        "hidden_size": 128,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 704,
        "max_position_embeddings": 12,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    torch.manual_seed(1)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    config.architectures = ["CLIPModel"]
    model = CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file({n: p.detach().contiguous() for n, p in model.named_parameters()}, folder / "model.safetensors")
    train_tokenizer(DATA / "sentences.txt").save(str(folder / "tokenizer.json"))
    told = {"model_max_length": 12, "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
