"""Small random towers as a user exports them, and pruned by hand in PyTorch."""

from pathlib import Path

import torch
import transformers

from exporter.trace import quiet

DATA = Path(__file__).parent / "data"  # written by tools/timm_tower.py
COMMON = {"hidden_size": 32, "num_attention_heads": 4, "image_size": 56, "patch_size": 14, "num_hidden_layers": 4}
MLP = {"intermediate_size": 64}
KINDS = {
    "clip": (transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**COMMON, **MLP)),
    "siglip": (transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**COMMON, **MLP)),
    "vit": (transformers.ViTForImageClassification, transformers.ViTConfig(**COMMON, **MLP, num_labels=5)),
    "dinov2": (
        transformers.Dinov2WithRegistersModel,
        transformers.Dinov2WithRegistersConfig(**COMMON, num_register_tokens=4),
    ),
}


class Answer(torch.nn.Module):
    """Tensors instead of transformers' objects."""

    def __init__(self, model, bare=False):
        super().__init__()
        self.model, self.bare = model, bare

    def forward(self, pixel_values):
        found = self.model(pixel_values=pixel_values, output_hidden_states=self.bare)
        if self.bare:
            return found.hidden_states[-2]
        return found.logits if hasattr(found, "logits") else (found.last_hidden_state, found.pooler_output)


def tower(kind, attention):
    torch.manual_seed(0)
    cls, config = KINDS[kind]
    model = cls._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def export(model, path, opset, *, batch=None, legacy=False, bare=False):
    pictures = torch.zeros(batch or 2, 3, 56, 56)
    names = {"input_names": ["pictures"], "opset_version": opset}
    with quiet(), torch.no_grad():
        if legacy:
            names["dynamic_axes"] = {"pictures": {0: "n"}}
            torch.onnx.export(Answer(model, bare), (pictures,), str(path), dynamo=False, **names)
        else:
            dynamic = None if batch else ({0: torch.export.Dim("n")},)
            more = {"dynamic_shapes": dynamic, "external_data": False, "verbose": False}
            torch.onnx.export(Answer(model, bare), (pictures,), str(path), dynamo=True, **names, **more)
    return path


@torch.no_grad()
def by_hand(kind, model, pictures, layer, keep):
    """Kept indices, and the answers, of FasterVLM behind a layer: eager attention, plain loops."""
    base = getattr(model, "vit", model)
    parts = {"clip": "encoder.layers", "vit": "layers", "dinov2": "encoder.layer"}
    layers = base.get_submodule(parts[kind])
    model.set_attn_implementation("eager")
    seen = {}
    hooks = [layers[layer].register_forward_hook(lambda _, __, out: seen.update(hidden=out))]
    attention = next(m for name, m in layers[layer].named_modules() if name in {"self_attn", "attention"})
    hooks.append(attention.register_forward_hook(lambda _, __, out: seen.update(weights=out[1])))
    model(pixel_values=pictures)
    for hook in hooks:
        hook.remove()
    hidden, front = seen["hidden"], 5 if kind == "dinov2" else 1
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    scores = seen["weights"][:, :, 0, front:].mean(1)
    kept = scores.argsort(dim=-1, descending=True, stable=True)[:, :keep].sort(-1).values
    rows = torch.stack(
        [torch.cat([one[:front], one[front:][chosen]]) for one, chosen in zip(hidden, kept, strict=True)]
    )
    for after in layers[layer + 1 :]:
        rows = after(rows, attention_mask=None) if kind == "clip" else after(rows)
        rows = rows[0] if isinstance(rows, tuple) else rows
    return kept, _answers(kind, model, base, rows)


def _answers(kind, model, base, rows):
    if kind == "clip":
        return [rows, base.post_layernorm(rows[:, 0])]
    rows = base.layernorm(rows)
    return [model.classifier(rows[:, 0])] if kind == "vit" else [rows, rows[:, 0]]
