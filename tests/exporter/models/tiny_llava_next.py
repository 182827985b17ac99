"""A LLaVA-NeXT of a few thousand random weights, and its checkpoint with everything that an export reads."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
)

from exporter.demo_llava import train_tokenizer
from exporter.models.llava_next import LlavaNext
from tests.exporter.tiny_llava import write as write_weights

HUB = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("lm_head.", "language_model.lm_head."),
)
SHORT = (("model.vision_tower.", "vision_tower."), *HUB[1:])
MODULES = ()  # transformers' own parameter names
NESTED = (("model.vision_tower.", "model.vision_tower.vision_model."),)
LAYOUTS = {"hub": HUB, "hub without vision_model": SHORT, "modules": MODULES, "modules with vision_model": NESTED}
TILE = 12
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
POINTS = [[rows * TILE, cols * TILE] for rows, cols in GRIDS]  # as the hub's, with smaller tiles


def tiny_config(text="llama", *, tied=False, head=8):
    """Nine patches a view, three tower layers, two decoder layers with grouped keys; the demo's vocabulary.

    TensorRT has fused attention for heads of 32 and more.
    """
    sizes = {
        "vocab_size": 704,
        "hidden_size": 2 * head,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
    }
    vision = CLIPVisionConfig(
        hidden_size=2 * head,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=4,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=LlamaConfig(**sizes) if text == "llama" else MistralConfig(**sizes, sliding_window=None),
        image_token_index=700,
        image_grid_pinpoints=POINTS,
        tie_word_embeddings=tied,
    )
    config.architectures = list(LlavaNext.architectures)
    return config


def tiny_model(text="llama", *, tied=False, head=8):
    """The stock model, random, eager; every weight differs from every other."""
    torch.manual_seed(0)
    config = tiny_config(text, tied=tied, head=head)
    model = LlavaNextForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for layer in model.model.vision_tower.encoder.layers:  # attention that looks at something
            layer.self_attn.q_proj.weight.mul_(8)
    return model


def write(folder, model, layout=HUB, dtype=torch.float16):
    """A whole checkpoint: two shards, tokenizer, template, image processor."""
    write_weights(folder, model, layout, dtype)
    data = Path(str(files("exporter"))) / "data" / "llava-1.5"
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        shutil.copyfile(data / name, folder / name)
    train_tokenizer(data / "sentences.txt").save(str(folder / "tokenizer.json"))
    side = model.config.vision_config.image_size
    stored = json.loads((data / "preprocessor_config.json").read_text())
    stored |= {
        "aspect_ratio_setting": "anyres",
        "crop_size": {"height": side, "width": side},
        "do_pad": True,
        "image_grid_pinpoints": model.config.image_grid_pinpoints,
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
        "size": {"shortest_edge": side},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))
