"""The NumPy model as a bundle: what bundle.json says, its tokenizer, and pictures to show it."""

from copy import deepcopy

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from engines.bundle import FORMAT
from engines.forms import parse_forms
from engines.session import Session
from engines.videos import Video
from tests.engines.numpy_model import (
    GRID,
    HEADS,
    HIDDEN,
    IMAGE,
    MORE,
    PATCHES,
    PIXELS,
    TEXT,
    VIDEO,
    VOCABULARY,
    WIDTH,
    NumpyModel,
)

EOS = 2
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
SIGNS = ["USER", "ASSISTANT", ":", "?"]
WORDS = [*SPECIAL, *SIGNS, "what", "color", "is", "it", "red", "green", "blue", "and", "the", "how", "many", "<video>"]
assert len(WORDS) == VOCABULARY


def open_numpy(settings, prompt=None, dtype="fp32", wrap=lambda _, run: run):
    """A session over a model with these settings; wrap(name, part) may put something around its parts."""
    model = NumpyModel(**settings)
    parts = {name: wrap(name, run) for name, run in model.parts().items()}
    return Session(contract(model), parts, prompt, dtype)


def with_engines(raw):
    """Adds fp16 graphs, and engines that are graphs and some that are not."""
    for part in raw["parts"]:
        raw["parts"][part]["files"] = {dtype: f"onnx/{part}.{dtype}.onnx" for dtype in ("fp32", "fp16")}
    graphs = {part: f"onnx/{part}.fp32.onnx" for part in raw["parts"]}
    plans = {part: f"engines/trt-rtx/{part}.plan" for part in raw["parts"]}
    built = {
        "ort-cpu": {"target": "ort-cpu", "dtype": "fp32", "files": graphs},
        "trt-rtx": {"target": "trt-rtx", "dtype": "fp16", "files": plans, "limits": raw["limits"]},
    }
    built["trt-rtx"]["batch"] = dict.fromkeys(raw["parts"], raw["limits"]["batch"])
    return raw | {"engines": built}


def contract(model):
    """What bundle.json says about a model."""
    read = {"": (), "text": TEXT, "clip": ("clip_text", "clip_mask")}[model.reads]
    inputs = {"vision": ["pixel_values", *read], "embed": ["input_ids", "image_embeds"]}
    inputs |= {f"vision.{name}": ["pixel_values"] for name in model.forms}
    inputs |= {"text": ["input_ids", "attention_mask"]} if model.reads == "clip" else {}
    past = [f"past_key_values.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")]
    if model.second:
        spans = [] if model.buckets else ["span_starts", "carry.score"]
        inputs |= {name: ["inputs_embeds", "attention_mask", "position_ids", *spans] for name in model.prefills}
        kinds = ["attention_mask", *([] if model.evict else ["position_ids"]), *(["slots"] if model.static else [])]
        groups = [f"{name}.{g}" for g in range(2) for name in kinds]
        inputs["decode"] = ["inputs_embeds", *groups, *past, *(["key_bias.1"] if model.key_bias else [])]
        inputs |= {"evict": ["attention_mask.0", "attention_mask.1", *past]} if model.evict else {}
    else:
        inputs["decoder"] = ["inputs_embeds", "attention_mask", "position_ids", *past]
    outputs = {"decode": ["logits", *(["kept_mask.1"] if model.held else [])]}
    limits = {"batch": model.max_batch, "length": model.max_length, "tokens": model.keep, "images": model.images}
    return {
        "format": FORMAT,
        "recipe": {},
        "limits": {**limits, "fixed": 0},
        "model": {
            "image_token_id": IMAGE,
            "eos_token_ids": [EOS],
            "pad_token_id": 0,
            "hidden_size": HIDDEN,
            "kv_heads": HEADS,
            "head_dim": WIDTH,
            "max_positions": model.max_positions,
        },
        "plan": [],
        "pictures": [form_entry(model, name) for name in ("", *model.forms)],
        "positions": model.positions,
        "groups": group_entries(model),
        "ran": [model.keep, model.second or model.keep],
        **calls(model),
        "parts": {
            part: {
                "inputs": [port(name) for name in names],
                "outputs": [port(name) for name in outputs.get(part, ())],
                "files": {"fp32": f"onnx/{part}.fp32.onnx"},
            }
            for part, names in inputs.items()
        },
    }


def port(name):
    return {"name": name, "dtype": "float32", "shape": ["rows", SEGMENT]}


def group_entries(model):
    first = {"tokens": model.keep, "fixed": None}
    if not model.second:
        return [{"layers": [0, 2], **first}]
    return [{"layers": [0, 1], **first}, {"layers": [1, 2], "tokens": model.second, "fixed": model.held or None}]


def calls(model):
    """How the parts of a split decoder are called."""
    found = []
    if model.second:
        whole = bool(model.buckets)
        spans = {name: size if whole else model.keep for name, size in model.prefills.items()}
        found = [{"part": name, "tokens": size, "whole": whole} for name, size in spans.items()]
    return {
        "prefill": found,
        "states": [],
        "warm_up": model.warm,
        "slot_positions": model.evict > 0,
        "kv": {"form": "static" if model.static else "growing", "capacity": model.capacity},
        "evict": {"above": model.evict} if model.evict else None,
    }


VIEWS = {
    "": (1, None),
    "tiles": (3, {"kind": "tiles", "rows": 1, "cols": 2, "size": [PIXELS, PIXELS]}),
    "video": (4, {"kind": "frames", "count": 4}),
}
STEP = 2  # between frames


def form_entry(model, name=""):
    """What bundle.json says about one form of picture."""
    views, how = deepcopy(VIEWS[name])
    square = {"height": PIXELS, "width": PIXELS}
    frames = views if name == "video" else 1
    return {
        "part": f"vision.{name}".strip("."),
        "kind": "video" if name == "video" else "image",
        "token_id": VIDEO if name == "video" else IMAGE,
        "views": views,
        "grid": [GRID, GRID],
        "tokens": model.keep + MORE.get(name, 0),
        "patches": PATCHES * views,
        "mrope": {"grid": [frames, GRID, GRID * views // frames], "step": STEP},
        "preprocess": {
            "size": square,
            "crop": None,
            "resample": 3,
            "rescale": 1 / 255,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "views": how,
        },
    }


def form(**changes):
    """A form of picture, parsed."""
    return parse_forms([form_entry(NumpyModel()) | changes], HIDDEN)[0]


def sight(*kept, form=0):
    """What is seen of a picture, as far as its layout goes."""
    return {"kept_indices": np.array(kept), "form": form}


def picture(seed, size=(14, 9)):
    """A small picture of noise, larger than the model sees."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def video(seed, frames=7):
    """A small video of noise."""
    return Video([picture(seed * 100 + frame) for frame in range(frames)])


SEGMENT = 6  # tokens that the text part takes at once


def save_tokenizer(directory):
    """Writes a word-level tokenizer.json over WORDS."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*SPECIAL, "<video>"])
    tokenizer.save(str(directory / "tokenizer.json"))


SINGLE = {"keep": 5}
KEEP = {"keep": 5, "positions": "keep"}
SPLIT = {"keep": 5, "positions": "keep", "second": 2}
BIASED = {**SPLIT, "key_bias": True}
STATIC = {**BIASED, "static": True}
MROPE = {"keep": 5, "positions": "mrope"}
EMPTY = {"keep": 5, "empty": 2}
AXES = {**SPLIT, "positions": "mrope"}
MODELS = [SINGLE, KEEP, SPLIT, BIASED, STATIC, MROPE, EMPTY, {**SPLIT, "empty": 1}, AXES]
UNCUT = [SINGLE, KEEP, MROPE, EMPTY]  # their decoder is one part

PROMPTS = [[5, IMAGE, 9, 10, 8, 6, 7], [5, 9, 16], [5, IMAGE, 13, IMAGE, 16, 9, 10, 11, 12]]
PICTURES = [[picture(1)], [], [picture(2), picture(3)]]
