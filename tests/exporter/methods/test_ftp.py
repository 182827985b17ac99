"""FTP: which tokens run in which block."""

import pytest
import torch
from safetensors import safe_open

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.routes import scaled
from exporter.methods.ftp import FTP
from exporter.reducer import Grid, Shape, Stage
from exporter.registry import method
from tests.documents import blocks
from tests.exporter.methods.common import normal
from tests.exporter.methods.padded_prompts import DECODER, LAYERS, Prompts, alike, as_graph, outcome
from tests.exporter.methods.plain_decoder import causal
from tools.goldens.decoders import play

SPARSITY = (0.25, 0.5, 0.0, 0.75, 0.4)
FACTS = {
    "layout": "shared",
    "activation": "silu",
    "position": "length",
    "rank": "length",
    "attention": "mean",
    "execute": "1",
}
PROMPTS = Prompts((16, 11, 5), 16)
OWN = "62%"  # of SPARSITY, in the mean


def tensors(prefixes=("router",), out=2):
    found = {"sparsity": torch.tensor(SPARSITY)}
    for number, prefix in enumerate(prefixes):
        found |= {
            f"{prefix}.fc1.weight": 2 * normal(8, 4, seed=number),
            f"{prefix}.fc1.bias": normal(8, seed=20 + number),
            f"{prefix}.fc2.weight": normal(out, 8, seed=40 + number),
            f"{prefix}.fc2.bias": normal(out, seed=60 + number),
        }
    return found


def trained(given=None, **facts):
    return FTP().trained(tensors() if given is None else given, FACTS | facts, DECODER.shape(16))


def by_hand(given, length, slots, facts):
    """Rows that run by layer, and states, of a prompt of `length` tokens in `slots`: loops over tokens."""
    x, attended, ran = Prompts((length,), slots).hidden[:, :length], torch.zeros(length), []
    for layer, sparsity in enumerate(SPARSITY):
        order = attended.sort(descending=True, stable=True).indices.tolist()
        scale = [length if facts[name] == "length" else 1 for name in ("position", "rank")]
        prefix = "router" if facts["layout"] == "shared" else f"blocks.{layer}.router"
        logits = []
        for token in range(length):
            values = (token / scale[0], float(attended[token]), order.index(token) / scale[1], sparsity)
            first = given[f"{prefix}.fc1.weight"] @ torch.tensor(values) + given[f"{prefix}.fc1.bias"]
            out = given[f"{prefix}.fc2.weight"] @ (first * first.sigmoid()) + given[f"{prefix}.fc2.bias"]
            execute = int(facts["execute"])
            logits.append(float(out[execute] - out[1 - execute]) if len(out) == 2 else float(out))
        best = sorted(range(length), key=lambda token: -logits[token])
        rows = torch.tensor(sorted(best[: round(slots * (1 - sparsity))]))
        done = causal(DECODER, layer, x[:, rows], rows)
        x = x.clone()
        x[:, rows] = done.hidden
        received = done.attention.mean(0).sum(0)
        attended[rows] = received / (1 if facts["attention"] == "sum" else len(rows))
        ran.append(rows.tolist())
    return ran, x[0]


@pytest.mark.parametrize(
    ("out", "facts"),
    [
        (2, {}),
        (2, {"execute": "0", "attention": "sum", "position": "index", "rank": "index"}),
        (1, {"layout": "per_block"}),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_best_run_and_the_others_pass(number, out, facts):
    shared = facts.get("layout") != "per_block"
    given = tensors(["router"] if shared else [f"blocks.{layer}.router" for layer in range(LAYERS)], out)
    walk = PROMPTS.one(number).walk(trained(given, **facts), OWN)
    rows, after, hidden = outcome(walk)
    length = PROMPTS.lengths[number]
    ran, want = by_hand(given, length, 16, FACTS | facts)
    assert rows == ran
    torch.testing.assert_close(hidden, want, atol=1e-4, rtol=1e-4)
    assert after == [length] * LAYERS  # whoever ran last, the next token stands behind the prompt


def test_some_case_leaves_the_last_token_out():
    rows = outcome(PROMPTS.walk(trained(), OWN))[0]
    assert any(15 not in ran for ran in rows)


@pytest.mark.parametrize("reducer", [trained(), FTP(mode="static")], ids=["router", "static"])
def test_every_sequence_of_a_batch_is_as_alone(reducer):
    alike(reducer, PROMPTS, OWN)


@pytest.mark.parametrize("reducer", [trained(), FTP(mode="static")], ids=["router", "static"])
def test_the_graph_is_the_walk(reducer):
    as_graph(reducer, PROMPTS, OWN)


def test_generated_tokens_go_on_from_shorter_caches():
    """Of a cache that lacks tokens the layer sees what is there, and the new row stands behind the prompt."""
    reducer, hidden, new = trained(), PROMPTS.one(0).hidden, normal(1, 1, 16, seed=9)
    played = play(DECODER, reducer, reducer.plan(DECODER.shape(16), Budget(OWN)), hidden, 0, 16)
    ran, _ = by_hand(tensors(), 16, 16, FACTS)
    x, cached = new, hidden[:, :16]
    for layer in range(LAYERS):
        rows = torch.tensor(ran[layer])
        past = causal(DECODER, layer, cached[:, rows], rows)
        x = causal(DECODER, layer, x, torch.tensor([16]), past).hidden
        cached = cached.clone()
        cached[:, rows] = past.hidden
    torch.testing.assert_close(played.run([new])[0], DECODER.norm(x), atol=1e-4, rtol=1e-4)


def test_static_runs_the_first_and_the_newest():
    walk = PROMPTS.walk(FTP(mode="static"), 7)
    assert outcome(walk, 0)[0] == [[0, 10, 11, 12, 13, 14, 15]] * LAYERS
    assert outcome(walk, 1)[0] == [[0, 5, 6, 7, 8, 9, 10]] * LAYERS
    assert outcome(walk, 2)[0] == [[0, 1, 2, 3, 4]] * LAYERS


def counts(reducer, keep, tokens=16):
    return [stage.keep for stage in reducer.plan(DECODER.shape(tokens), Budget(keep))]


def test_plans_choose_for_sparse_blocks_and_look_before_them():
    stages = trained().plan(DECODER.shape(16), Budget(OWN))
    places = [(stage.layer, stage.at, stage.keep) for stage in stages]
    look = [(0, "after", None), (2, "after", None), (3, "after", None)]
    runs = [(0, "around", 12), (1, "around", 8), (3, "around", 4), (4, "around", 10)]
    assert places == sorted(look + runs, key=lambda each: (each[0], each[1] == "after"))


def test_a_full_budget_is_the_dense_model():
    assert counts(trained(), "100%") == []
    assert counts(FTP(mode="static"), "16") == []


def test_another_budget_scales_all_sparsities():
    assert [keep for keep in counts(trained(), "24%", 100) if keep] == [50, 1, 1, 20]
    assert scaled((0.5, 0.0), 100, 50) == (0.99, 0.0)
    assert scaled((0.4, 0.2), 100, 70) == (0.4, 0.2)


def test_static_takes_a_sparsity_for_each_block():
    reducer = method("ftp", {"mode": "static", "sparsity": "0,0.5,.25,0,0"})
    assert counts(reducer, "85%") == [8, 12]
    assert (reducer.needs, FTP().needs) == (set(), {"router"})


def test_the_documented_file_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(blocks("docs/routers.md", "python")[0].text, {})
    with safe_open("ftp.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        made = FTP().trained(stored, file.metadata(), Shape(64, Grid(8, 8), decoder_layers=32))
    assert [s.keep for s in made.plan(Shape(256, Grid(1, 256), decoder_layers=32), Budget("72%"))][1::2] == [179] * 30
    assert repr(made) == repr(FTP())


@pytest.mark.parametrize(
    ("change", "facts", "words"),
    [
        ({"sparsity": torch.zeros(4)}, {}, "tensor sparsity has shape [4], not [5]"),
        ({"sparsity": torch.ones(5)}, {}, "sparsity holds values outside of 0 to 0.99"),
        ({"router.fc1.weight": torch.ones(8, 3)}, {}, "router.fc1.weight has shape [8, 3], not [h, 4]"),
        ({"router.fc2.weight": torch.ones(3, 8)}, {}, "router.fc2.bias has shape [2], not [3]"),
        ({"router.fc1.bias": torch.full((8,), torch.nan)}, {}, "router.fc1.bias holds values that are not finite"),
        ({"router.fc3.bias": torch.ones(8)}, {}, "router.fc3.bias is not part of the layout"),
        ({}, {"layout": "per_block"}, "blocks.0.router.fc1.weight is missing"),
        ({}, {"activation": "none"}, "metadata activation is 'none'"),
        ({}, {"execute": ""}, "metadata execute is ''"),
        ({}, {"rank": "1"}, "metadata rank is '1', not length or index"),
    ],
)
def test_other_files_are_refused(change, facts, words):
    with pytest.raises(UserError) as caught:
        trained(tensors() | change, **facts)
    assert str(caught.value).startswith("router file: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_declared_is_refused():
    facts = {name: value for name, value in FACTS.items() if name != "attention"}
    with pytest.raises(UserError, match="router file: metadata attention is missing"):
        FTP().trained(tensors(), facts, DECODER.shape(16))


def test_without_weights_there_is_no_plan():
    with pytest.raises(UserError, match=r"give --aux router=FILE.safetensors"):
        FTP().plan(DECODER.shape(16), Budget("50%"))
    with pytest.raises(UserError, match=r"give --aux router=FILE.safetensors"):
        FTP().select(None, Stage("decoder", 0))


@pytest.mark.parametrize(
    "params",
    [
        {"mode": "dynamic"},
        {"sparsity": "0,0.5,0,0,0"},
        {"mode": "static", "sparsity": "0,-0.5"},
        {"mode": "static", "sparsity": "1,1"},
        {"weights": "1"},
    ],
)
def test_a_mistake_is_one_line(params):
    with pytest.raises(UserError) as caught:
        method("ftp", params)
    assert "\n" not in str(caught.value)


def test_budgets_that_no_factor_gives():
    with pytest.raises(UserError, match="give --keep 100%"):
        counts(FTP(mode="static", sparsity="0,0,0,0,0"), "50%")
    with pytest.raises(UserError, match="give 5 numbers, one for each block"):
        counts(FTP(mode="static", sparsity="0,0.5"), "50%")
