import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from exporter.demo import demo_checkpoint
from exporter.pictures import pictures

KEEP = 64


def test_what_ships():
    demo, general = pictures("demo"), pictures("general")
    assert [Image.open(p.path).size for p in demo] == [(96, 96)] * 2
    assert [Image.open(p.path).size for p in general] == [(640, 480), (480, 640)]
    assert all(p.path.stat().st_size < 300_000 for p in demo + general)
    assert all(len(p.questions) >= 2 for p in demo + general)
    assert all(q.answer for p in demo for q in p.questions)
    assert all(q.answer is None for p in general for q in p.questions)


@pytest.fixture(scope="module")
def model():
    return LlavaForConditionalGeneration.from_pretrained(
        demo_checkpoint("demo"), dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("picture", pictures("demo"), ids=lambda p: p.path.name)
def test_demo_model_answers_rightly_dense_and_pruned(model, picture):
    """Keep the 64 patches that [CLS] attends to most in layer -2: mean over heads, ties to the lower."""
    pixels = torch.from_numpy(np.array(Image.open(picture.path).convert("RGB"))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        seen = model.model.vision_tower(
            pixel_values=(pixels - 0.5) / 0.5, output_hidden_states=True, output_attentions=True
        )
        embeds = model.model.multi_modal_projector(seen.hidden_states[-2][:, 1:])
        scores = seen.attentions[-2][0, :, 0, 1:].mean(dim=0)
        kept = scores.sort(descending=True, stable=True).indices[:KEEP].sort().values
        for question in picture.questions:
            assert answer(model, embeds, question.text) == question.answer
            assert answer(model, embeds[:, kept], question.text) == question.answer


def answer(model, image, question):
    """Greedy word after the prompt, and the end of the answer after the word."""
    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint("demo"))
    prompt = tokenizer(f"<s> USER : <image> {question} ASSISTANT :", return_tensors="pt")["input_ids"]
    words = model.get_input_embeddings()(prompt)
    rows = torch.cat([words[:, :3], image, words[:, 4:]], dim=1)
    first = model(inputs_embeds=rows).logits[0, -1].argmax()
    then = torch.cat([rows, model.get_input_embeddings()(first[None, None])], dim=1)
    assert model(inputs_embeds=then).logits[0, -1].argmax() == tokenizer.eos_token_id
    return tokenizer.decode(first)
