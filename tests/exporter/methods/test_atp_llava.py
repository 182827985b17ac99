"""ATP-LLaVA: thresholds of trained modules, and tokens that do not pass them."""

import pytest
import torch
from safetensors import safe_open

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.thresholds import sampled
from exporter.methods.atp_llava import AtpLlava
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.documents import blocks
from tests.exporter.methods.common import normal
from tests.exporter.methods.padded_prompts import DECODER, Prompts, alike, as_graph
from tests.exporter.methods.plain_decoder import causal
from tools.goldens.decoders import play

WIDTH, HIDDEN, RATES, SCALE = 12, 6, (0.25, 0.1), 1.5
LAYERS = (1, 3)  # with a module, from 1 on
FACTS = {
    "layers": "1,3",
    "rates": "0.25,0.1",
    "lambda_sample": "1.5",
    "temperature": "10",
    "scores": "tokens",
    "activation": "none",
}
PROMPTS = Prompts((19, 24, 17), WIDTH, ((2,), (5,), (1,)))
SPANS = Prompts((34, 31), WIDTH, ((2, 18), (3, 15)))


def tensors(columns=2 * WIDTH, layers=LAYERS):
    """Thresholds near the scores, so that some tokens pass."""
    found = {}
    for layer in layers:
        found[f"atp.{layer}.score_proj.weight"] = 4 * normal(HIDDEN, columns, seed=layer)
        found[f"atp.{layer}.score_proj.bias"] = 0.1 * normal(HIDDEN, seed=10 + layer)
        for number, (head, scale, bias) in enumerate((("head_r", 0.05, -2.7), ("head_s", 0.3, 0.5))):
            found[f"atp.{layer}.{head}.weight"] = scale * normal(1, HIDDEN, seed=20 + 2 * layer + number)
            found[f"atp.{layer}.{head}.bias"] = torch.tensor([bias])
    return found


def trained(given=None, shape=None, counts="", **facts):
    given = tensors() if given is None else given
    return AtpLlava(counts).trained(given, FACTS | facts, shape or DECODER.shape(WIDTH))


def by_hand(prompts, facts, given):
    """The dynamic method on one prompt of one span: who is left after each module, states by place, and the layers."""
    start, length = prompts.starts[0][0], prompts.lengths[0]
    rows, left, ran = list(range(length)), [], []
    x = prompts.hidden[:, :length]
    for layer in range(DECODER.layers):
        done = causal(DECODER, layer, x, torch.tensor(rows))
        x = done.hidden
        ran.append((list(rows), done))
        if layer + 1 not in LAYERS:
            continue
        seen, module = done.attention.mean(0), LAYERS.index(layer + 1)
        visual = [n for n, row in enumerate(rows) if start <= row < start + WIDTH]
        text = [n for n, row in enumerate(rows) if row >= start + WIDTH]
        by_picture, by_text = torch.zeros(WIDTH), torch.zeros(WIDTH)
        for n in visual:
            by_picture[rows[n] - start] = sum(seen[q, n] for q in visual) / len(visual)
            by_text[rows[n] - start] = sum(seen[q, n] for q in text) / len(text)
        values = torch.cat([by_picture, by_text])
        if facts["scores"] == "means":
            values = torch.stack([by_picture.sum(), by_text.sum()]) / len(visual)
        part = f"atp.{layer + 1}"
        z = given[f"{part}.score_proj.weight"] @ values + given[f"{part}.score_proj.bias"]
        z = z.clamp(min=0) if facts["activation"] == "relu" else z
        heads = [given[f"{part}.{head}.weight"] @ z + given[f"{part}.{head}.bias"] for head in ("head_r", "head_s")]
        redundant, spatial = (float(1 / (1 + torch.exp(-each))) for each in heads)
        step, kept = round(RATES[module] ** -0.5), []
        for n in visual:
            token = rows[n] - start
            near = token % step == 0 and 1 - RATES[module] * SCALE > spatial
            if (by_picture[token] + by_text[token]) / 2 > redundant or near:
                kept.append(n)
        left.append([rows[n] - start for n in kept])
        stay = [n for n, row in enumerate(rows) if n in kept or n not in visual]
        rows, x = [rows[n] for n in stay], x[:, stay]
    return left, dict(zip(rows, x[0], strict=True)), ran


FORMS = [{}, {"activation": "relu"}, {"scores": "means"}]


def columns(facts):
    return 2 if facts.get("scores") == "means" else 2 * WIDTH


@pytest.mark.parametrize("facts", FORMS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_it_is_the_dynamic_method_where_all_that_pass_have_room(number, facts):
    prompts, given = PROMPTS.one(number), tensors(columns(facts))
    left, want, _ = by_hand(prompts, FACTS | facts, given)
    counts = [len(left[0]) + 2, len(left[1]) + 1]
    walk = prompts.walk(trained(given, counts=f"{counts[0]},{counts[1]}", **facts), 5)
    assert [int(walk.outputs[f"tokens.{layer - 1}"]) for layer in LAYERS] == [len(each) for each in left]
    assert [int(walk.outputs[f"overflow.{layer - 1}"]) for layer in LAYERS] == [0, 0]
    rows = walk.sequence.rows[0].tolist()
    for place, states in want.items():
        torch.testing.assert_close(walk.sequence.hidden[0, rows.index(place)], states, atol=1e-4, rtol=1e-4)
    gone = walk.sequence.bias[0] < -1000
    assert sorted(row for row, masked in zip(rows, gone, strict=True) if not masked and row < 99) == sorted(want)


def test_some_pass_and_some_do_not():
    left = [by_hand(PROMPTS.one(number), FACTS, tensors())[0] for number in range(3)]
    assert all(0 < len(first) < WIDTH for first, _ in left)
    assert any(0 < len(second) < len(first) for first, second in left)


def test_too_few_slots_are_told():
    left, _, _ = by_hand(PROMPTS.one(0), FACTS, tensors())
    walk = PROMPTS.one(0).walk(trained(counts=f"{len(left[0]) - 1},1"), 1)
    assert walk.outputs["overflow.0"].tolist() == [[1]]
    assert (walk.sequence.bias[0] > -1).all() or len(left[1]) < 1
    assert walk.outputs["overflow.0"].dtype == torch.int64


def test_generated_tokens_do_not_see_what_did_not_pass():
    start, length = 5, 24
    prompts, new = PROMPTS.one(1), normal(1, 1, 16, seed=9)
    left, _, ran = by_hand(prompts, FACTS, tensors())
    reducer = trained(counts=f"{WIDTH},{len(left[1]) + 1}")
    stages = reducer.plan(DECODER.shape(WIDTH), Budget("1"))
    played = play(DECODER, reducer, stages, prompts.hidden, start, WIDTH)
    x = new
    for layer, (_, past) in enumerate(ran):
        x = causal(DECODER, layer, x, torch.tensor([length]), past).hidden
    torch.testing.assert_close(played.run([new])[0], DECODER.norm(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompts", [PROMPTS, SPANS], ids=["texts", "spans"])
def test_every_sequence_of_a_batch_is_as_alone(prompts):
    alike(trained(), prompts, 4)


def test_the_graph_is_the_walk():
    as_graph(trained(), SPANS, 4)


def test_the_grid_is_uniform_in_both_directions():
    assert sampled(Grid(3, 4), 2).reshape(3, 4).tolist() == [
        [True, False, True, False],
        [False] * 4,
        [True, False, True, False],
    ]


def test_counts_fall_to_the_budget():
    shape = Shape(576, Grid(24, 24), decoder_layers=32)
    facts = {"layers": "4,14,24", "rates": "0.5,0.25,0.0625", "scores": "means"}
    reducer = trained(tensors(2, (4, 14, 24)), shape, **facts)
    assert reducer.plan(shape, Budget("144")) == (
        Stage("decoder", 3, keep=363),
        Stage("decoder", 13, keep=229),
        Stage("decoder", 23, keep=144),
    )
    assert reducer.plan(shape, Budget("100%")) == ()


def test_the_documented_file_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(blocks("docs/routers.md", "python")[1].text, {})
    shape = Shape(576, Grid(24, 24), decoder_layers=32)
    with safe_open("atp-llava.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        made = AtpLlava().trained(stored, file.metadata(), shape)
    assert [stage.layer for stage in made.plan(shape, Budget("144"))] == [3, 13, 23]
    assert repr(made) == repr(AtpLlava())


@pytest.mark.parametrize(
    ("change", "facts", "words"),
    [
        ({"atp.1.score_proj.weight": torch.ones(6, 30)}, {}, "atp.1.score_proj.weight has shape [6, 30], not [h, 24]"),
        ({"atp.3.head_s.bias": torch.ones(2)}, {}, "atp.3.head_s.bias has shape [2], not [1]"),
        ({"atp.3.head_r.weight": torch.full((1, 6), torch.inf)}, {}, "atp.3.head_r.weight holds values that are not"),
        ({"atp.2.head_s.bias": torch.ones(1)}, {}, "atp.2.head_s.bias is not part of the layout"),
        ({}, {"layers": "1,2"}, "atp.2.score_proj.weight is missing"),
        ({}, {"layers": "3,1"}, "no rising list of layers from 1 to 4"),
        ({}, {"layers": "1,5"}, "no rising list of layers from 1 to 4"),
        ({}, {"layers": "1,2.5"}, "no rising list of layers from 1 to 4"),
        ({}, {"rates": "0.25"}, "one share up to 1 for each layer"),
        ({}, {"rates": "0.25,2"}, "one share up to 1 for each layer"),
        ({}, {"lambda_sample": "3,3"}, "lambda_sample is one"),
        ({}, {"lambda_sample": "nan"}, "metadata lambda_sample is 'nan', not numbers"),
        ({}, {"temperature": "hot"}, "metadata temperature is 'hot', not numbers"),
        ({}, {"activation": "gelu"}, "metadata activation is 'gelu', not none or relu"),
    ],
)
def test_other_files_are_refused(change, facts, words):
    with pytest.raises(UserError) as caught:
        trained(tensors() | change, **facts)
    assert str(caught.value).startswith("router file: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("counts", ["4", "4,5", "13,4", "4,0"])
def test_counts_that_do_not_fall_are_refused(counts):
    with pytest.raises(UserError, match="give 2 counts that fall from 12 at most"):
        trained(counts=counts).plan(DECODER.shape(WIDTH), Budget("4"))


def test_what_cannot_be_planned_is_told():
    with pytest.raises(UserError, match=r"give --aux router=FILE.safetensors"):
        AtpLlava().plan(DECODER.shape(WIDTH), Budget("4"))
    views = Shape(6, Grid(2, 3), decoder_layers=5, views=2)
    with pytest.raises(UserError, match="it samples one grid, and a picture has 2 views"):
        trained().plan(views, Budget("4"))
    with pytest.raises(UserError, match="its modules read 12 tokens, and a picture has 9 here"):
        trained().plan(DECODER.shape(9), Budget("4"))
    with pytest.raises(UserError, match="no list of numbers"):
        method("atp-llava", {"counts": "a,b"})
