"""A LLaVA of a few thousand random weights, and its checkpoint in every layout of names that exists."""

import json

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from exporter.models.llava import Llava

HUB = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
SHORT = (("model.vision_tower.", "vision_tower."), *HUB[1:])
MODULES = ()  # transformers' own parameter names
NESTED = (("model.vision_tower.", "model.vision_tower.vision_model."),)
LAYOUTS = {"hub": HUB, "hub without vision_model": SHORT, "modules": MODULES, "modules with vision_model": NESTED}


def tiny_config(*, tied=False):
    """Four patches of width 16, three tower layers, two decoder layers with grouped keys."""
    text = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, tie_word_embeddings=tied)
    config.architectures = list(Llava.architectures)
    return config


def tiny_model(*, tied=False):
    """The stock model, random, eager; every weight differs from every other."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(tiny_config(tied=tied), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def write(folder, model, layout=HUB, dtype=torch.float16):
    """Save a checkpoint of two shards; tied weights once."""
    model.config.save_pretrained(folder)
    named = {renamed(name, layout): value.detach().to(dtype) for name, value in model.named_parameters()}
    halves = {name: f"{'ab'[rank % 2]}.safetensors" for rank, name in enumerate(sorted(named))}
    for file in set(halves.values()):
        save_file({name: value.contiguous() for name, value in named.items() if halves[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": halves}))


def renamed(name, layout):
    for old, new in layout:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
