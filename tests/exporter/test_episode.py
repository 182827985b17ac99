"""Control steps of a robot: 256 visual tokens, seven actions, and what was attended to before decides what stays."""

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from engines.session import Session
from exporter.eager_taps import EagerTaps, Seen
from exporter.export import export
from exporter.models.llava import Llava
from exporter.recipe import Recipe
from exporter.reducer import Grid, Shape
from exporter.registry import method
from tests.exporter import tiny_llava
from tests.exporter.models.tiny_files import furnish

PATCHES, KEEP, ACTIONS, HISTORY, LAYERS = 256, 64, 7, 3, 6
QUESTION = "what shape is red ?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """OpenVLA's numbers in a LLaVA of a few thousand weights."""
    folder = tmp_path_factory.mktemp("robot")
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    vision = CLIPVisionConfig(**small, num_hidden_layers=2, image_size=64, patch_size=4)
    text = LlamaConfig(**small, vocab_size=704, num_hidden_layers=LAYERS, max_position_embeddings=2048, eos_token_id=2)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=700)
    config.architectures = ["LlavaForConditionalGeneration"]
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for layer in model.model.language_model.layers:
            layer.self_attn.q_proj.weight.mul_(4)
    tiny_llava.write(folder, model, dtype=torch.float32)
    furnish(folder, size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    recipe = Recipe(model=str(checkpoint), method="vla-pruner", keep=str(KEEP), targets=("ort-cpu",), max_batch=1)
    outcome = export(recipe, tmp_path_factory.mktemp("bundles") / "robot", Console(quiet=True))
    assert outcome.parity["verdict"] == "pass"
    return outcome


def picture(step):
    noise = np.random.default_rng(step).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((64, 64))


def plain(model, embeds, tokens):
    """The stock decoder over a prompt and the actions that were fed: hidden states and attention of every layer."""
    table = model.model.language_model.embed_tokens
    rows = torch.cat([embeds, table(torch.tensor([tokens]))], 1)
    with torch.no_grad():
        return model.model.language_model(inputs_embeds=rows, output_attentions=True, output_hidden_states=True)


def test_an_episode(checkpoint, bundle):
    session, model = Session.open(bundle.path), Llava.reference(checkpoint)
    ids = session.prompt.encode(
        session.prompt.render([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}])
    )
    first = ids.index(700)
    entries, kept = [], None
    for step in range(HISTORY + 1):
        seen = session.see([picture(step)], [ids])
        state, logits = session.start([ids], [1], seen)
        kept = state.outputs.get("kept_indices.1")
        tokens = [int(token) for (token,) in session.stream(state, logits, ACTIONS, stop_ids=())]
        assert len(tokens) == ACTIONS
        rows = torch.from_numpy(seen[0]["image_embeds"])[None]
        table = model.model.language_model.embed_tokens
        text = table(torch.tensor([ids])).detach()
        embeds = torch.cat([text[:, :first], rows, text[:, first + 1 :]], 1)
        told = plain(model, embeds, tokens[:-1])
        layers = bundle.contract["plan"]
        watched = told.attentions[layers[1]["layer"]][0].mean(0)[embeds.shape[1] - 1 :, first : first + PATCHES]
        if step < HISTORY:  # nothing is cut before the history is full
            assert state.masks[-1].shape[1] == state.masks[0].shape[1]
            assert watched.shape[0] == ACTIONS
            entries.append(watched.mean(0))
    want = wanted(told, embeds, first, layers[0]["layer"], torch.stack(entries)[None])
    assert kept[0, 0].tolist() == want


def wanted(told, embeds, first, layer, history):
    """What the method keeps of the last picture, told the stock model's own attention and the entries found above."""
    length = embeds.shape[1]
    seen = {
        -1: Seen({"out": embeds}),
        layer: Seen(attention=told.attentions[layer][:, :, :length, :length]),
    }
    shape = Shape(PATCHES, Grid(16, 16), decoder_layers=LAYERS)
    state = {"history": history, "attended": torch.zeros(1, PATCHES), "rows": torch.zeros(1, 1)}
    taps = EagerTaps((first,), PATCHES, length, seen, shape, state=state)
    reducer = method("vla-pruner")
    return reducer.select(taps, reducer.stages(shape, KEEP)[0]).indices[0, 0].tolist()


def test_a_new_episode_begins_without_a_past(bundle):
    session = Session.open(bundle.path)
    ids = session.prompt.encode(
        session.prompt.render([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}])
    )

    def slots():
        state, _ = session.prefill([ids], [[picture(0)]])
        return state.masks[-1].shape[1]

    lengths = [slots() for _ in range(HISTORY + 1)]
    assert lengths == [lengths[0]] * HISTORY + [lengths[0] - PATCHES + KEEP]
    session.reset()
    assert slots() == lengths[0]
