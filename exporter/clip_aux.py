"""A CLIP checkpoint beside the model's own: the text tower that its vision tower was trained with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import UserError
from exporter.checkpoint import Checkpoint, open_checkpoint
from exporter.config import refusals_in_words

ROLE = "clip"
TOKENIZER = "clip/tokenizer.json"
HINT = "give --aux clip=DIR, the CLIP model whose tower this is, such as openai/clip-vit-large-patch14-336"


class ClipAux(nn.Module):
    """Text tower, and what takes states of the vision tower into its space; parameters named as in CLIP checkpoints."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import CLIPTextModel

        vision, text = config.vision_config, config.text_config
        self.text_model = CLIPTextModel._from_config(text, attn_implementation="sdpa")  # noqa: SLF001
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=False)
        self.visual_projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.vision_model = nn.Module()
        self.vision_model.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)

    def aligned(self, states: Tensor, *, norm: bool) -> Tensor:
        """Vision states `[...,C]` as `[...,P]`."""
        post_norm: Any = self.vision_model.post_layernorm
        out: Tensor = self.visual_projection(post_norm(states) if norm else states)
        return out

    def text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Segments of a question `[M,L]` as `[M,P]`."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        out: Tensor = self.text_projection(pooled)
        return out

    def restore_buffers(self) -> None:
        """Position ids, which no checkpoint holds."""
        embeddings = self.text_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.position_embedding.num_embeddings).expand(1, -1)


def beside(model: nn.Module, config: Any, dtype: torch.dtype) -> nn.Module:
    """`model` with an empty `clip` in it, where its config names one."""
    if getattr(config, "clip_aux", None) is not None:
        model.add_module("clip", ClipAux(config.clip_aux).to(dtype).eval())
    return model


def loaded(config: Any, folder: Path) -> ClipAux:
    """With the checkpoint's weights, in fp32."""
    from transformers import CLIPModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    stock = CLIPModel.from_pretrained(
        str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).state_dict()
    made = ClipAux(config.clip_aux).eval()
    made.load_state_dict({name: stock[name] for name in made.state_dict()})
    return made


def read(clip: ClipAux, folder: Path, question: str) -> dict[str, Tensor]:
    """What methods that need CLIP read of a question: its segments `clip_text [1,M,P]`, and which there are."""
    from tokenizers import Tokenizer

    length = clip.text_model.embeddings.position_embedding.num_embeddings
    ids = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(question).ids)
    segments = torch.nn.functional.pad(ids, (0, -len(ids) % length)).reshape(-1, length)
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, -len(ids) % length)).reshape(-1, length)
    return {"clip_text": clip.text(segments, mask)[None], "clip_mask": torch.ones(1, len(segments)) > 0}


def load_config(folder: Path) -> Any:
    """The `CLIPConfig` of an auxiliary checkpoint.

    Raises:
        UserError: it is no CLIP model.
    """
    path = folder / "config.json"
    with refusals_in_words(path):
        from transformers import CLIPConfig

        config = CLIPConfig.from_pretrained(str(folder), local_files_only=True)
    if config.architectures and "CLIPModel" not in config.architectures:
        raise UserError(f"{path}: architectures is {config.architectures}; --aux clip needs a CLIPModel")
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: no tokenizer.json; save CLIP's tokenizer with transformers' save_pretrained")
    return config


def join(base: Checkpoint, folder: Path) -> Checkpoint:
    """A checkpoint with the CLIP model's tensors as `clip.NAME`, in files `clip.FILE`.

    Raises:
        UserError: the CLIP model's checkpoint is not complete.
    """
    other = open_checkpoint(folder)
    named = {f"{ROLE}.{name}": replace(t, file=f"{ROLE}.{t.file}") for name, t in other.tensors.items()}
    places = {f"{ROLE}.{file}": other.dir / file for file in other.files}
    return replace(
        base,
        config={**base.config, ROLE: other.config},
        tensors={**base.tensors, **named},
        files=[*base.files, *places],
        places={**base.places, **places},
    )
