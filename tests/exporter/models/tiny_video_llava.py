"""A Video-LLaVA of a few thousand random weights, and its checkpoint with everything that an export reads."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from exporter.models.video_llava import VideoLlava
from tests.exporter.models.tiny_files import furnish
from tests.exporter.tiny_llava import write as write_weights

HUB = (
    ("model.image_tower.", "image_tower.vision_model."),
    ("model.video_tower.", "video_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
MODULES = ()  # transformers' own parameter names
LAYOUTS = {"hub": HUB, "modules": MODULES}


def tiny_config(side=3, width=16, layers=3, heads=2, decoder_layers=2):
    """`side` x `side` patches a frame; the demo's vocabulary with a token for videos behind it."""
    text = LlamaConfig(
        vocab_size=704,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=decoder_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=2048,
        eos_token_id=2,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=4 * side,
        patch_size=4,
    )
    config = VideoLlavaConfig(vision_config=vision, text_config=text, image_token_index=700, video_token_index=702)
    config.architectures = list(VideoLlava.architectures)
    return config


def tiny_model(**sizes):
    """The stock model, random, eager; every weight differs from every other."""
    torch.manual_seed(0)
    model = VideoLlavaForConditionalGeneration._from_config(tiny_config(**sizes), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for tower in (model.model.image_tower, model.model.video_tower):
            for layer in tower.encoder.layers:  # attention that looks at something
                layer.self_attn.q_proj.weight.mul_(8)
    return model


def write(folder, model, layout=HUB, dtype=torch.float16):
    """A whole checkpoint."""
    write_weights(folder, model, layout, dtype)
    side = model.config.vision_config.image_size
    furnish(
        folder,
        image_processor_type="VideoLlavaImageProcessor",
        processor_class="VideoLlavaProcessor",
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )
