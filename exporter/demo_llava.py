"""Generates "demo:llava-1.5": random weights in LLaVA-1.5's geometry, key names and files, from a fixed seed.

Random attention would rank patches almost at random and by hair's breadths, where rounding decides. So the
queries and keys of the layer that pruning methods score by are enlarged, and the seed is one for which the
scores on both shipped pictures are clearly apart at the usual budgets; `check` refuses any other.
"""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoImageProcessor, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from exporter.pictures import pictures

SEED = 15
SHARPEN = 1.2  # enlarges q and k of the scored layer
BUDGETS = (29, 58, 64, 128, 144, 192)  # patches kept of 576
GAP = 1e-3  # least distance of the last kept from the first dropped score, over the mean score
HUB_NAMES = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


def generate(folder: Path) -> None:
    """Write the whole checkpoint into an existing folder."""
    data = Path(str(files("exporter"))) / "data" / "llava-1.5"
    for file in data.iterdir():
        if file.suffix != ".txt":
            shutil.copyfile(file, folder / file.name)
    train_tokenizer(data / "sentences.txt").save(str(folder / "tokenizer.json"))
    save_shards(random_weights(folder), folder)
    check(folder)


def check(folder: Path) -> None:
    """Hold the checkpoint to its promises.

    Raises:
        RuntimeError: a weight is missing or unknown, or scores are too close at some budget.
    """
    disable_progress_bar()
    model, report = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(report.values()):
        raise RuntimeError(f"the demo weights do not fit the model: {report}")
    views = [Image.open(picture.path) for picture in pictures("general")]
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(views, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        attention = model.model.vision_tower(pixel_values=pixels, output_attentions=True).attentions
    gaps = score_gaps(attention[model.config.vision_feature_layer][:, :, 0, 1:].mean(dim=1))
    if gaps.min() < GAP:
        raise RuntimeError(f"demo seed {SEED}: scores {gaps.min():.1e} of their mean apart, {GAP:.0e} wanted")


def score_gaps(scores: Tensor) -> Tensor:
    """Return s_K - s_{K+1} over the mean score, [pictures, len(BUDGETS)], of scores [pictures, patches]."""
    ranked = scores.sort(dim=1, descending=True).values
    last = [budget - 1 for budget in BUDGETS]
    return (ranked[:, last] - ranked[:, list(BUDGETS)]) / scores.mean(dim=1, keepdim=True)


def random_weights(folder: Path) -> dict[str, Tensor]:
    """Draw every weight, fp16, under its hub name; matrices keep the scale of what they multiply."""
    config = LlavaConfig.from_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlavaForConditionalGeneration(config).state_dict().items()}
    layer = config.vision_config.num_hidden_layers + config.vision_feature_layer
    sharp = tuple(f"vision_tower.encoder.layers.{layer}.self_attn.{part}_proj.weight" for part in "qk")
    source = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, shape in shapes.items():
        scale = SHARPEN if name.endswith(sharp) else 1.0
        weights[_hub_name(name)] = (scale * _draw(name, shape, source)).half()
    return weights


def _draw(name: str, shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    """Draw one weight: norms start at one, embeddings at unit size, matrices at 1 / sqrt(inputs)."""
    noise = torch.randn(shape, generator=source)
    if len(shape) == 1:
        return 0.02 * noise + float("norm" in name and name.endswith("weight"))
    return noise if "embed_tokens" in name else noise / torch.tensor(shape[1:]).prod().sqrt()


def _hub_name(name: str) -> str:
    """Rename a parameter of the model in memory to the name that hub checkpoints store."""
    new, old = next((new, old) for new, old in HUB_NAMES if name.startswith(new))
    return old + name.removeprefix(new)


def save_shards(weights: dict[str, Tensor], folder: Path) -> None:
    """Write two shards of about half the bytes each, and the index."""
    total, seen = sum(value.nbytes for value in weights.values()), 0
    shards: list[dict[str, Tensor]] = [{}, {}]
    for name, value in weights.items():
        shards[seen * 2 >= total][name] = value
        seen += value.nbytes
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def train_tokenizer(sentences: Path) -> Tokenizer:
    """Train a byte-level BPE of 700 tokens; <image> and <pad> follow as 700 and 701, as in the real one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(sentences)], trainer)
    tokenizer.add_special_tokens([AddedToken("<image>", special=True), AddedToken("<pad>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer
