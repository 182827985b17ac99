"""A LLaVA-OneVision of a few thousand random weights, and its checkpoint with everything that an export reads."""

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

from exporter.models.llava_onevision import LlavaOnevision
from tests.exporter.models.tiny_files import furnish
from tests.exporter.tiny_llava import write as write_weights

HUB = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("lm_head.", "language_model.lm_head."),
)
MODULES = ()  # transformers' own parameter names
LAYOUTS = {"hub": HUB, "modules": MODULES}


def tiny_config(side=3, width=16, layers=3, heads=2, decoder_layers=2):
    """`side` x `side` patches a view, the last layer's are read; the demo's vocabulary with a token for videos."""
    text = Qwen2Config(
        vocab_size=704,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=decoder_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=2048,
        eos_token_id=2,
        bos_token_id=1,
    )
    tile = 4 * side + 1  # as in the real one, whose patches do not fill the picture
    vision = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=tile,
        patch_size=4,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=700,
        video_token_index=702,
        image_grid_pinpoints=[[rows * tile, cols * tile] for rows in range(1, 4) for cols in range(1, 4)],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    config.architectures = list(LlavaOnevision.architectures)
    return config


def tiny_model(**sizes):
    """The stock model, random, eager; every weight differs from every other."""
    torch.manual_seed(0)
    config = tiny_config(**sizes)
    model = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for layer in model.model.vision_tower.encoder.layers:  # attention that looks at something
            layer.self_attn.q_proj.weight.mul_(8)
        model.lm_head.weight[[700, 702]] = 0  # it never says placeholders, as no trained one does
    return model


def write(folder, model, layout=HUB, dtype=torch.float16):
    """A whole checkpoint."""
    write_weights(folder, model, layout, dtype)
    side = model.config.vision_config.image_size
    furnish(
        folder,
        image_processor_type="LlavaOnevisionImageProcessor",
        processor_class="LlavaOnevisionProcessor",
        size={"height": side, "width": side},
        crop_size=None,
        do_center_crop=None,
        image_grid_pinpoints=model.config.image_grid_pinpoints,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
