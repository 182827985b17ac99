"""Every method on every family where it has a meaning: tiny checkpoints, and what to ask of them."""

import json
from dataclasses import dataclass, field
from functools import cache

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from exporter.catalogue import why_not
from exporter.registry import families, method, method_names
from tests.exporter import tiny_llava
from tests.exporter.models import (
    tiny_clip,
    tiny_llama,
    tiny_llava_next,
    tiny_llava_onevision,
    tiny_qwen2_5_vl,
    tiny_video_llava,
)
from tests.exporter.models.tiny_files import furnish

SIDE, WIDTH, HEADS, LAYERS = 8, 128, 4, 4  # with fewer heads TensorRT has no fused decoder attention
DECODER_LAYERS = 4
SIZES = {"side": SIDE, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "decoder_layers": DECODER_LAYERS}
KEEP = "25%"
BUDGETS = {
    "dycoke": "60%",  # whole frames must fit
    "todre-stage2": "100%",  # it cuts nothing before the decoder
    "a2sf": "40",  # slots of a cache
    "spatten": "40",
}
# Lengths that hold a picture and a question.
BUCKETS = {
    "Llama": (64,),
    "Llava": (128,),
    "LlavaNext": (256,),
    "LlavaOnevision": (128,),
    "Qwen25VL": (160,),
    "VideoLlava": (576,),
}
PARAMS = {"mustdrop": {"window": "2x2"}}  # which tiles 8x8 patches


@dataclass(frozen=True)
class Pair:
    """A method on a family."""

    method: str
    family: str
    options: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.method}-{self.family}"


def pairs():
    """All that have a meaning."""
    found = []
    for family in families():
        kind = family.__name__
        for name in method_names():
            made = method(name, PARAMS.get(name, {}))
            if why_not(made, family) is None:
                found.append(Pair(name, kind, options(made, kind)))
    return found


def options(made, kind):
    """What a recipe says beside the method."""
    said = {"LlavaNext": {"grids": ("1x2",)}, "Qwen25VL": {"image_size": "64x64"}}.get(kind, {})
    if kind == "LlavaOnevision" and "video" in made.needs:
        said = {"input": "video", "frames": 8}
    if made.prompt:
        said = {**said, "buckets": BUCKETS[kind]}
    if aux := made.needs & {"clip", "router"}:
        said = {**said, "aux": {role: role for role in aux}}
    return said


@cache
def checkpoint(kind, root):
    """The folder of a family's tiny checkpoint, made once."""
    folder = root / kind
    folder.mkdir()
    WRITERS[kind](folder)
    return folder


def _clip_config():
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=4 * SIDE,
        patch_size=4,
    )


def _llama_config():
    return LlamaConfig(
        vocab_size=704,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=DECODER_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=2,
    )


def _random(model):
    """Weights that keep the scale of what they multiply, so that fp16 is enough; attention that looks at something."""
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            if parameter.dim() == 1:
                parameter.copy_(0.02 * noise + float("norm" in name and name.endswith("weight")))
            else:
                sharper = 2 if "vi" in name and ("q_proj" in name or "qkv" in name) else 1
                parameter.copy_(sharper * noise / parameter[0].numel() ** 0.5)
    return model.eval()


def _llava(folder):
    config = LlavaConfig(vision_config=_clip_config(), text_config=_llama_config(), image_token_id=700)
    config.architectures = ["LlavaForConditionalGeneration"]
    model = LlavaForConditionalGeneration._from_config(config)
    tiny_llava.write(folder, _random(model))
    furnish(folder, size={"shortest_edge": 4 * SIDE}, crop_size={"height": 4 * SIDE, "width": 4 * SIDE})


def _llava_next(folder):
    config = LlavaNextConfig(
        vision_config=_clip_config(),
        text_config=_llama_config(),
        image_token_index=700,
        image_grid_pinpoints=[[4 * SIDE, 8 * SIDE], [8 * SIDE, 4 * SIDE]],
        tie_word_embeddings=False,
    )
    config.architectures = ["LlavaNextForConditionalGeneration"]
    model = LlavaNextForConditionalGeneration._from_config(config)
    tiny_llava_next.write(folder, _random(model))


def _qwen(folder):
    config = tiny_qwen2_5_vl.tiny_config()
    told = json.loads(config.to_json_string())
    told["vision_config"] |= {"hidden_size": WIDTH, "intermediate_size": 96, "depth": LAYERS, "num_heads": HEADS}
    told["vision_config"] |= {"out_hidden_size": WIDTH, "fullatt_block_indexes": [1, 3]}
    told["text_config"] |= {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": DECODER_LAYERS}
    del told["text_config"]["layer_types"]
    told["text_config"] |= {"num_attention_heads": HEADS, "num_key_value_heads": 2}
    told["text_config"]["rope_parameters"]["mrope_section"] = [4, 6, 6]
    config = Qwen2_5_VLConfig.from_dict(told)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config)
    tiny_qwen2_5_vl.write(folder, _random(model))


WRITERS = {
    "Llama": lambda at: tiny_llama.write(at, _random(tiny_llama.tiny_model(width=WIDTH, heads=HEADS, kv_heads=2))),
    "Llava": _llava,
    "LlavaNext": _llava_next,
    "LlavaOnevision": lambda at: tiny_llava_onevision.write(at, _random(tiny_llava_onevision.tiny_model(**SIZES))),
    "Qwen25VL": _qwen,
    "VideoLlava": lambda folder: tiny_video_llava.write(folder, _random(tiny_video_llava.tiny_model(**SIZES))),
    "clip": lambda folder: tiny_clip.write(folder, WIDTH),
}
