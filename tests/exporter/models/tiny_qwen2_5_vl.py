"""A Qwen2.5-VL of a few thousand random weights, and its checkpoint with everything an export reads."""

import json

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from exporter.models.qwen2_5_vl import Qwen25VL
from tests.exporter.tiny_llava import write as write_weights

HUB = (("model.visual.", "visual."), ("model.language_model.", "model."))
MODULES = ()  # transformers' own parameter names
LAYOUTS = {"hub": HUB, "modules": MODULES}
WORDS = 300  # of the tokenizer; the special tokens follow
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
IMAGE = WORDS + SPECIAL.index("<|image_pad|>")
STOP = WORDS + SPECIAL.index("<|im_end|>")
PIXELS = {"min_pixels": 8 * 8, "max_pixels": 256 * 256}
# The hub's, without its video half.
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_config(*, tied=False):
    """Patches of 4 pixels, windows of 2x2 tokens, four tower layers of which two see everything, grouped keys."""
    text = {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": WORDS + len(SPECIAL),
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
        "bos_token_id": None,
        "eos_token_id": STOP,
        "tie_word_embeddings": tied,
    }
    vision = {
        "depth": 4,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "window_size": 16,
        "out_hidden_size": 24,
        "fullatt_block_indexes": [1, 3],
    }
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=IMAGE, tie_word_embeddings=tied
    )
    config.architectures = list(Qwen25VL.architectures)
    return config


def tiny_model(*, tied=False):
    """The stock model, random, eager; every weight differs from every other."""
    torch.manual_seed(0)
    made = Qwen2_5_VLForConditionalGeneration._from_config(tiny_config(tied=tied), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for block in made.model.visual.blocks:  # attention that looks at something
            block.attn.qkv.weight.mul_(4)
    return made


def write(folder, model, layout=HUB, dtype=torch.float16):
    """Save a checkpoint: weights, tokenizer, template, how pictures are prepared."""
    write_weights(folder, model, layout, dtype)
    if layout is HUB:
        _flatten(folder / "config.json")
    told = {
        **PIXELS,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [STOP, WORDS], "pad_token_id": WORDS}))
    _tokenizer().save(str(folder / "tokenizer.json"))


def _flatten(path):
    """The hub's config.json: the decoder's values on top, rotation in the words of old."""
    stored = json.loads(path.read_text())
    text, vision = stored.pop("text_config"), stored["vision_config"]
    rope = text.pop("rope_parameters")
    old = {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}}
    del text["model_type"], vision["model_type"], vision["rope_parameters"]
    path.write_text(json.dumps({**text, **stored, **old}))


def _tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [
        "what shape is purple ?",
        "describe the picture",
        "what is in the middle of the image ? answer briefly",
    ] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, min_frequency=1, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(words, trainer)
    assert tokenizer.get_vocab_size() <= WORDS
    for number in range(tokenizer.get_vocab_size(), WORDS):
        tokenizer.add_tokens([f"filler{number}"])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return tokenizer
