"""Qwen2.5-VL against transformers: towers of every form, positions, whole exports."""

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_window_index

from engines.images import open_image, preprocess
from engines.session import Session
from exporter.attention import register
from exporter.budget import Budget
from exporter.export import export
from exporter.form import Form
from exporter.methods.none import METHOD as DENSE
from exporter.models.qwen2_5_vl import Qwen25VL
from exporter.parts.base import Job
from exporter.parts.vision import VisionPart
from exporter.pictures import pictures
from exporter.plan import make_plan
from exporter.recipe import Recipe
from exporter.reducer import Grid, Reducer, Selection, Stage
from exporter.reference import Reference, Sight
from exporter.registry import method
from exporter.tower_windows import TowerWindows
from tests.exporter.models.tiny_qwen2_5_vl import IMAGE, STOP, WORDS, tiny_model, write
from tests.exporter.toy_exports import install

SIZES = ((32, 32), (40, 56), (24, 64), (8, 8))  # even windows, ragged ones at two edges, at one, a single token
PROMPT = [301, 7, 303, IMAGE, 304, 9, 11, 302]


@pytest.fixture(scope="module")
def stock():
    return tiny_model()


@pytest.fixture(scope="module")
def fused():
    model = tiny_model()
    model.set_attn_implementation(register())
    return model


def family(model, size):
    return Qwen25VL(model.config, model, Form(size=size))


def pixels(size, batch=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def flat(picture):
    """What the stock model takes: patches and their grid."""
    cut, rows, cols = Qwen2VLImageProcessorPil().patchify(picture.numpy(), 4, 2, 2)
    return {"pixel_values": torch.from_numpy(cut), "image_grid_thw": torch.tensor([[1, rows, cols]])}


def whole(model, size, prompt=PROMPT):
    """A prompt for the stock model, the picture as so many tokens."""
    count = family(model, size).shape(1).patches
    ids = torch.tensor([[t for token in prompt for t in [token] * (count if token == IMAGE else 1)]])
    kinds = (ids == IMAGE).int()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}


def rope_index(model, given, size):
    """The stock position ids `[3,1,S]`."""
    grid = flat(pixels(size)[0])["image_grid_thw"]
    return model.model.get_rope_index(given["input_ids"], given["mm_token_type_ids"], grid)[0]


def compared(stock, fused, size, reducer, keep):
    """The tower part in PyTorch on two pictures against the reference on each."""
    stages = make_plan("m", reducer, family(stock, size).shape(1), Budget(keep))
    given = pixels(size, 2)
    text = torch.randn(2, 5, 24)
    words = {"text": text, "text_mask": torch.ones(2, 5) > 0} if "text" in reducer.needs else {}
    reference = Reference(family(stock, size), reducer, stages)
    wanted = [reference.see(given[b : b + 1], {n: v[b : b + 1] for n, v in words.items()}) for b in range(2)]
    part = VisionPart(Job(family(fused, size), reducer, stages))
    with torch.no_grad():
        rows, kept, *_ = part(given, *([text, words["text_mask"].long()] if words else []))
    assert torch.equal(kept, torch.stack([sight.kept for sight in wanted]))
    torch.testing.assert_close(rows, torch.stack([sight.embeds for sight in wanted]), rtol=1e-4, atol=1e-5)
    return kept


@pytest.mark.parametrize("size", SIZES)
def test_the_uncut_tower_is_the_stock_one(stock, fused, size):
    assert compared(stock, fused, size, DENSE(), "100%")[0].tolist() == list(range(size[0] * size[1] // 64))
    (picture,) = pixels(size)
    sight = Reference(family(stock, size), DENSE(), ()).see(picture[None])
    with torch.no_grad():
        features = stock.model.get_image_features(**flat(picture)).pooler_output[0]
    torch.testing.assert_close(sight.embeds, features)


IN_TOWER = ("in-tower", "masker", "merger", "peeker", "blanked", "tome", "flowcut", "zero-tprune")


@pytest.mark.parametrize("size", [SIZES[1], (72, 64)])
@pytest.mark.parametrize("name", [*IN_TOWER, "fastervlm", "hiprune", "visionzip", "vispruner", "dart", "holov"])
def test_cuts_are_those_of_the_reference(stock, fused, size, name):
    install()
    compared(stock, fused, size, method(name), "17" if name in {"in-tower", "peeker"} else "19")


class Watcher(Reducer):
    """Shows the attention of layers with windows: before any cut, behind a bias, and behind a cut."""

    title = paper = "watcher"
    stages = (Stage("tower", 0), Stage("tower", 1, keep=20), Stage("tower", 2))

    def select(self, taps, stage):
        last = torch.tensor([[0, taps.valid.shape[1] - 1]]).expand(taps.valid.shape[0], -1)
        told = {f"sum.{stage.layer}": taps.column_sum(stage.layer), f"rows.{stage.layer}": taps.rows(stage.layer, last)}
        if stage.layer == 0:
            return Selection(outputs=told, key_bias=torch.arange(35.0).expand(taps.span.shape) / 35)
        return Selection(stage.keep and torch.arange(20).flip(0).expand(*taps.span.shape[:2], -1), outputs=told)


def test_attention_in_windows_is_what_the_reference_shows(stock, fused):
    size, given = (40, 56), pixels((40, 56), 2)
    part = VisionPart(Job(family(fused, size), Watcher(), Watcher.stages))
    with torch.no_grad():
        values = part(given)
    found = {port.name: value for port, value in zip(part.found.outputs, values, strict=True)}
    for number in range(2):
        sight = Reference(family(stock, size), Watcher(), Watcher.stages).see(given[number : number + 1])
        assert len(sight.outputs) == 6
        for name, wanted in sight.outputs.items():
            torch.testing.assert_close(found[name][number], wanted[0], rtol=1e-4, atol=1e-6)
    assert (found["rows.2"] == 0).any()


def test_the_reference_sees_the_stock_attention(stock):
    """Weights are computed from what the stock layer projects; they must give what it returned."""
    looked = {}

    class Look(Reducer):
        def select(self, taps, stage):
            for layer in range(4):
                v, module = taps.qkv(layer).v, stock.model.visual.blocks[layer].attn
                mixed = taps.rows(layer, torch.arange(v.shape[2])[None]) @ v
                looked[layer] = module.proj(mixed.transpose(1, 2).flatten(2)), taps.hidden(layer, "attention_out")
            return Selection()

    Reference(family(stock, (40, 56)), Look(), (Stage("tower", 3),)).see(pixels((40, 56)))
    assert len(looked) == 4
    for got, want in looked.values():
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (1, 9), (3, 2)])
def test_windows_are_the_stock_ones(stock, grid):
    rows, cols = grid
    model = family(stock, (rows * 8, cols * 8))
    assert TowerWindows(Grid(*grid), 2, 4).numbers.tolist() == model.packed.windows.tolist()
    order = model.packed.order(torch.arange(rows * cols * 4))
    given = {"position_embeddings": (torch.zeros(rows * cols * 4, 2),) * 2}
    index, ends = get_vision_window_index(torch.tensor([[1, rows * 2, cols * 2]]), 2, 16, 4)
    assert order[::4].tolist() == (index * 4).tolist()
    assert model.packed.kwargs(given, 0, torch.arange(rows * cols * 4))["cu_seqlens"].tolist() == ends.tolist()
    assert model.packed.kwargs(given, 1, torch.arange(rows * cols * 4))["cu_seqlens"].tolist() == [0, rows * cols * 4]


def test_positions_of_kept_tokens_are_the_stock_ones(stock):
    size = (40, 56)
    given = whole(stock, size)
    ids, _ = stock.model.get_rope_index(
        given["input_ids"], given["mm_token_type_ids"], flat(pixels(size)[0])["image_grid_thw"]
    )
    kept = torch.tensor([0, 8, 34, -1])
    places, advance = family(stock, size).places(kept, keep=False)
    first = PROMPT.index(IMAGE)
    assert torch.equal(places[:, :3] + first, ids[:, 0, first + kept[:3]])
    assert places[:, 3].tolist() == [0, 0, 0]
    assert first + advance == ids[0, 0, first + 35]
    assert family(stock, size).mrope == {"grid": [1, 5, 7], "step": 1}


@pytest.mark.parametrize("size", SIZES)
def test_logits_of_a_whole_picture_are_the_stock_ones(stock, size):
    (picture,) = pixels(size)
    reference = Reference(family(stock, size), DENSE(), ())
    reading = reference.read(PROMPT, [reference.see(picture[None])], [5, 6])
    given = whole(stock, size, [*PROMPT, 5, 6])
    with torch.no_grad():
        wanted = stock(**given, **flat(picture)).logits[0, -3:]
    torch.testing.assert_close(reading.logits, wanted, rtol=1e-4, atol=1e-5)


def test_the_text_goes_on_where_the_uncut_picture_ends(stock):
    """Two tokens of a picture left out of the stock model's own input, its positions as they were."""
    size, left = (24, 64), [0, 3, 4, 9, 17, 23]
    reference = Reference(family(stock, size), DENSE(), ())
    seen = reference.see(pixels(size))
    cut = Sight(seen.embeds[left], seen.kept[left], {}, {}, {})
    given = whole(stock, size)
    first = PROMPT.index(IMAGE)
    rows = [*range(first), *(first + place for place in left), *range(first + 24, given["input_ids"].shape[1])]
    ids, _ = stock.model.get_rope_index(
        given["input_ids"], given["mm_token_type_ids"], flat(pixels(size)[0])["image_grid_thw"]
    )
    embeds = stock.get_input_embeddings()(given["input_ids"])
    embeds[0, first : first + 24] = seen.embeds
    with torch.no_grad():
        wanted = stock(inputs_embeds=embeds[:, rows], position_ids=ids[:, :, rows]).logits[0, -1]
    torch.testing.assert_close(reference.read(PROMPT, [cut], []).logits[-1], wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def checkpoint(stock, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write(folder, stock, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def dense(checkpoint, tmp_path_factory):
    """The checkpoint whole, at a size whose windows are ragged."""
    recipe = Recipe(model=str(checkpoint), method="none", targets=("ort-cpu",), image_size="58x39")
    return export(recipe, tmp_path_factory.mktemp("bundle") / "dense", Console(quiet=True))


def test_a_dense_bundle_answers_like_transformers(stock, dense, checkpoint):
    session, size = Session.open(dense.path), (40, 56)
    path = pictures("general")[0].path
    shown = family(stock, size).stock_pixels(checkpoint, path)
    _, logits = session.prefill([PROMPT], [[open_image(path)]])
    prompt = whole(stock, size)
    with torch.no_grad():
        first = stock(**prompt, **flat(shown[0])).logits[0, -1]
        wanted = stock.generate(**prompt, **flat(shown[0]), max_new_tokens=12, do_sample=False, eos_token_id=STOP)
    np.testing.assert_allclose(logits.reshape(-1), first.numpy(), rtol=1e-3, atol=1e-4)
    answer = session.generate([PROMPT], [[open_image(path)]], max_new_tokens=12)
    assert list(answer[0])[:12] == wanted[0, prompt["input_ids"].shape[1] :].tolist()


def test_the_uncut_tower_attends_window_by_window(dense):
    model = onnx.load(dense.path / "onnx" / "vision.fp32.onnx", load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    nodes = [node for node in model.graph.node if node.op_type == "Attention"]
    rows = [known[node.input[0]][2] for node in nodes]
    assert sorted(rows) == [4, 4, 8, 8, 16, 16, 140, 140]  # two layers with windows of 1, 2 and 4 tokens, two without
    assert all(len([name for name in node.input if name]) == 3 for node in nodes)  # no masks


def test_a_pruned_bundle_passes_parity_and_says_where_its_tokens_stand(checkpoint, tmp_path):
    recipe = Recipe(model=str(checkpoint), method="fastervlm", keep="9", targets=("ort-cpu",), image_size="64x72")
    outcome = export(recipe, tmp_path / "pruned", Console(quiet=True))
    assert outcome.parity["verdict"] == "pass"
    (picture,) = outcome.contract["pictures"]
    assert outcome.contract["positions"] == "mrope"
    assert (picture["grid"], picture["tokens"], picture["patches"]) == ([9, 8], 9, 72)
    assert picture["mrope"] == {"grid": [1, 9, 8], "step": 1}
    decoder = {port["name"]: list(port["shape"]) for port in outcome.contract["parts"]["decoder"]["inputs"]}
    assert decoder["position_ids"] == [3, "batch", "tokens"]
    assert outcome.contract["model"]["eos_token_ids"] == (STOP, WORDS)


def test_a_decoder_that_is_cut_keeps_the_positions(checkpoint, tmp_path):
    install()
    recipe = Recipe(model=str(checkpoint), method="peeker", keep="32", targets=("ort-cpu",), image_size="64x72")
    assert export(recipe, tmp_path / "cut", Console(quiet=True)).parity["verdict"] == "pass"


@pytest.mark.parametrize("name", ["RGB", "L", "RGBA"])
def test_pixels_are_the_stock_processor_s(stock, checkpoint, tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 4), np.uint8)
    Image.fromarray(noise, "RGBA").convert(name).save(tmp_path / "p.png")
    model = family(stock, (40, 56))
    shown = model.stock_pixels(checkpoint, tmp_path / "p.png")
    if name != "RGBA":  # the runtime puts what is see-through on white
        spec = model.preprocess(checkpoint)
        assert np.array_equal(preprocess(open_image(tmp_path / "p.png"), spec), shown[0].numpy())
    resized = Image.open(tmp_path / "p.png").convert("RGB").resize((56, 40), Image.Resampling.BICUBIC)
    made = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)(images=resized, return_tensors="pt")
    assert torch.equal(made["pixel_values"], flat(shown[0])["pixel_values"])
