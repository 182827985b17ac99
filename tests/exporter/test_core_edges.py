"""Edges of the core: tied weights, merged rows, biases, odd plans and parameters, what passes leave alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from engines.errors import UserError
from exporter import registry
from exporter.attention import register
from exporter.budget import Budget
from exporter.checkpoint import open_checkpoint
from exporter.line import Line
from exporter.models.llava import Llava
from exporter.parts.base import Job
from exporter.parts.embed import EmbedPart
from exporter.plan import make_plan
from exporter.recipe import Recipe
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage
from exporter.sequence import Sequence, cut
from exporter.surgeon import Surgeon
from exporter.trace import fake_model, save, trace
from exporter.weights import attach, match
from graph_passes import fold
from tests.exporter.tiny_llava import HUB, renamed, tiny_model, write
from tests.exporter.tiny_stack import Tiny, prompts
from tests.graph_passes.graphs import parsed, places


def test_tied_checkpoints_can_be_traced(tmp_path):
    model = tiny_model(tied=True)
    write(tmp_path, model)
    family, _ = fake_model(Llava, Llava.load_config(tmp_path), "fp32", register())
    match(family, open_checkpoint(tmp_path))


class Keeps(Reducer):
    positions = "keep"


def test_merged_rows_have_the_same_position_and_bias_in_the_reference():
    stage = Stage("decoder", 0, keep=2, extra=1)
    selection = Selection(torch.tensor([[[1, 3]]]), mix=torch.ones(1, 1, 1, 4))
    hidden, positions, bias = torch.zeros(1, 8, 1), torch.arange(8) + 100, torch.arange(8.0) + 10
    line, _, _ = Line.of((2,), 4, 8, positions=positions, bias=bias).cut(
        stage, selection, hidden, selection.indices[0], renumber=False
    )
    valid = torch.ones(1, 8) > 0
    before = Sequence(
        hidden, torch.tensor([[2]]), 4, torch.arange(4).expand(1, 1, 4), valid, positions[None], bias[None]
    )
    after = cut(before, stage, selection, renumber=False)
    assert line.positions.tolist() == after.positions[0].tolist()
    assert line.bias.tolist() == after.bias[0].tolist()


class Biased(Reducer):
    title = paper = "t"

    def select(self, taps, stage):
        if stage.layer == 0:
            return Selection(key_bias=torch.full((1, 1, 4), 2.0))
        return Selection(outputs={"raw": taps.rows(1, "last", logits=True)})


def test_logits_behind_a_key_bias_are_the_same_in_the_reference():
    from exporter.attention import NAME
    from exporter.stack import Walk

    model = tiny_model()
    family = Llava(model.config, model)
    stages = (Stage("tower", 0), Stage("tower", 1))
    surgeon = Surgeon(family, Biased(), stages, "tower", Line.of((1,), 4, 5))
    pixels = torch.randn(1, 3, 8, 8)
    with surgeon.at_work(), torch.no_grad():
        family.stock_tower(pixels)
    register()
    model.set_attn_implementation(NAME)
    with torch.no_grad():
        hidden = family.patch_embeddings(pixels)
        start = Sequence(hidden, 1, 4, torch.arange(4).expand(1, 1, 4))
        walk = Walk(family.tower, Biased(), stages, Shape(4, Grid(2, 2)), start)
        walk.run(2)
    torch.testing.assert_close(surgeon.outputs["raw"], walk.outputs["raw"], rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Flagged(Reducer):
    title: str = "t"
    flag: bool = True
    top: int | None = None


def test_bool_parameters(monkeypatch):
    monkeypatch.setattr(registry, "method_class", lambda name: Flagged)
    assert registry.method("m", {"flag": "False"}).flag is False


def test_parameters_without_a_typed_default_are_no_traceback(monkeypatch):
    monkeypatch.setattr(registry, "method_class", lambda name: Flagged)
    assert registry.method("m", {"top": "3"}).top == 3


def test_nothing_of_the_tracer_is_left_on_values(tmp_path):
    model = tiny_model()
    family, mode = fake_model(Llava, model.config, "fp32", register())
    write(tmp_path, model)
    traced = trace(EmbedPart(Job(family, Keeps(), ())), "fp32", mode)
    attach(traced, match(family, open_checkpoint(tmp_path)), tmp_path)
    save(traced, tmp_path / "e.onnx")
    assert b"pkg.torch" not in (tmp_path / "e.onnx").read_bytes()


def test_equal_small_weights_keep_their_names_or_the_report_says_so(tmp_path):
    text = """<ir_version: 10, opset_import: ["" : 23]>
    part (float[n,4] x, float[4] a, float[4] b) => (float[n,4] y) { s = Add(x, a) y = Mul(s, b) }"""
    model = parsed(text, tmp_path, a=np.ones(4, "f"), b=np.ones(4, "f"))
    before, result = places(model), fold.run(model)
    assert places(model) == before or result.modified


class Given(Reducer):
    def __init__(self, *stages):
        object.__setattr__(self, "stages", stages)

    def plan(self, shape, budget):
        return self.stages


SHAPE = Shape(576, Grid(24, 24), 24, 22, 32, has_cls=True)


@pytest.mark.parametrize(
    "stages",
    [
        (Stage("decoder", 5, keep=20), Stage("decoder", 2, keep=10)),  # runs 2 first, then asks 20 of 10
        (Stage("tower", 22, keep=0),),  # image_embeds [batch,0,D]
        (Stage("tower", 22, keep=10, extra=-3),),
        (Stage("decoder", 5, keep=20), Stage("tower", 3, keep=500)),
        (Stage("decoder", -1, keep=64), Stage("projected", keep=8)),
    ],
)
def test_plans_that_cannot_run_are_refused(stages):
    with pytest.raises(UserError):
        make_plan("toy", Given(*stages), SHAPE, Budget("64"))


def test_a_point_that_a_cut_took_away_is_refused_in_words():
    stages = (Stage("decoder", 0, keep=3), Stage("decoder", 1))
    script = {stages[1]: lambda taps, _: taps.hidden(0, "attention_out")}
    with pytest.raises(ValueError, match="carry"):
        Tiny(*stages, sequence=prompts(), script=script).run()


@pytest.mark.parametrize("model", [".", "..", "./", "/"])
def test_names_of_bundles_are_visible_and_plain(model):
    assert Recipe(model=model, keep="64").name[0].isalnum()


def test_a_checkpoint_that_stores_only_the_tied_head(tmp_path):
    from safetensors.torch import save_file
    from transformers import LlavaForConditionalGeneration

    model = tiny_model(tied=True)
    model.config.save_pretrained(tmp_path)
    named = {renamed(n, HUB): v.detach().clone() for n, v in model.named_parameters()}
    named["language_model.lm_head.weight"] = named.pop("language_model.model.embed_tokens.weight")
    save_file(named, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_input_embeddings().weight, named["language_model.lm_head.weight"]), (
        "transformers cannot either"
    )
    match(Llava(model.config, model), open_checkpoint(tmp_path))
