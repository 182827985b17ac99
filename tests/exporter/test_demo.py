import json
import os

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoTokenizer, LlavaForConditionalGeneration

from engines.errors import UserError
from exporter import demo, demo_llava
from exporter.demo import demo_checkpoint
from exporter.pictures import pictures


def turn(role, text, image=False):
    return {"role": role, "content": [{"type": "image"}] * image + [{"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TP_EXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield demo_checkpoint("demo:llava-1.5")


def test_demo_prompt_is_the_trained_one():
    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint("demo"))
    first = turn("user", "what color is the star ?", image=True)
    text = tokenizer.apply_chat_template([first], add_generation_prompt=True, tokenize=False)
    assert text == "<s> USER : <image> what color is the star ? ASSISTANT :"
    wanted = ["<s>", "USER", ":", "<image>", "what", "color", "is", "the", "star", "?", "ASSISTANT", ":"]
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == wanted
    later = [first, turn("assistant", "red"), turn("user", "which digit is in the picture ?")]
    assert tokenizer.apply_chat_template(later, add_generation_prompt=True, tokenize=False) == (
        text + " red </s> USER : which digit is in the picture ? ASSISTANT :"
    )


def test_llava_has_the_hub_layout(llava):
    index = json.loads((llava / "model.safetensors.index.json").read_text())["weight_map"]
    shards = sorted(set(index.values()))
    assert shards == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    stored = {}
    for shard in shards:
        with safe_open(llava / shard, "pt") as file:
            stored |= {name: (shard, file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
    assert stored == {name: (shard, torch.float16) for name, shard in index.items()}
    assert {
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.encoder.layers.5.self_attn.q_proj.bias",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    } <= set(index)


def test_llava_scores_are_clearly_apart(llava):
    model, report = LlavaForConditionalGeneration.from_pretrained(
        llava, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    tower, processor = model.model.vision_tower, AutoImageProcessor.from_pretrained(llava, backend="pil")
    for picture in pictures("general"):
        pixels = processor(Image.open(picture.path), return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, 336, 336)
        seen = {}
        scored = tower.encoder.layers[len(tower.encoder.layers) - 2].self_attn
        hook = scored.register_forward_hook(lambda _, __, out: seen.update(weights=out[1]))  # noqa: B023
        with torch.no_grad():
            tower(pixel_values=pixels)
        hook.remove()
        scores = seen["weights"][0, :, 0, 1:].mean(dim=0)
        assert scores.shape == (576,)
        ranked = sorted(scores.tolist(), reverse=True)
        for keep in (29, 58, 64, 128, 144, 192):
            assert ranked[keep - 1] - ranked[keep] > 1e-3 * sum(ranked) / 576, (picture.path.name, keep)


def test_llava_prompt_and_tokens(llava):
    tokenizer = AutoTokenizer.from_pretrained(llava)
    messages = [turn("user", "Is there a boat?", image=True)]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "USER: <image>\nIs there a boat? ASSISTANT:"
    messages += [turn("assistant", "Yes."), turn("user", "Where?")]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "USER: <image>\nIs there a boat? ASSISTANT: Yes. USER: Where? ASSISTANT:"
    )
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids.count(700), tokenizer.pad_token_id) == (1, 1, 701)
    assert tokenizer.decode(tokenizer("Zażółć 你好!")["input_ids"], skip_special_tokens=True) == "Zażółć 你好!"


def test_llava_generates_and_repeats_itself(llava, tmp_path):
    demo_llava.generate(tmp_path)
    for file in llava.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_made_once_then_reused(llava, monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(llava.parent))
    monkeypatch.setattr(demo_llava, "generate", lambda _: pytest.fail("made again"))
    assert demo_checkpoint("demo:llava-1.5") == llava
    assert os.listdir(llava.parent) == [llava.name]  # noqa: PTH208 - drafts are hidden files


def test_new_version_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path))
    monkeypatch.setattr(demo_llava, "generate", lambda folder: (folder / "config.json").touch())
    first = demo_checkpoint("demo:llava-1.5")
    monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    assert demo_checkpoint("demo:llava-1.5") != first


def test_a_failed_draft_leaves_nothing(monkeypatch, tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise RuntimeError("no")

    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path))
    monkeypatch.setattr(demo_llava, "generate", fail)
    with pytest.raises(RuntimeError, match="no"):
        demo_checkpoint("demo:llava-1.5")
    assert not list(tmp_path.iterdir())


def test_close_scores_are_refused(llava, monkeypatch):
    monkeypatch.setattr(demo_llava, "GAP", 0.1)
    with pytest.raises(RuntimeError, match="of their mean apart"):
        demo_llava.check(llava)


def test_user_mistakes(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no built-in model 'demo:x'"):
        demo_checkpoint("demo:x")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="TP_EXPORT_CACHE"):
        demo_checkpoint("demo:llava-1.5")
