"""Every method on every family: exported, compared with PyTorch in fp32 and fp16, built for TensorRT-RTX.

`pytest` plays two methods on each family that reads pictures; `pytest -m matrix` plays the covering set, each method at
least once, and every fourth of all other pairs: all of them would take longer than a change should wait. What TensorRT
makes of each is held against the table of `tests.exporter.matrix.fusion`.
"""

import pytest
from rich.console import Console

from exporter.export import export
from exporter.recipe import Recipe
from exporter.registry import families, method_class
from tests.exporter.matrix import fusion, routers
from tests.exporter.matrix.pairs import BUDGETS, DECODER_LAYERS, KEEP, PARAMS, checkpoint, pairs

PAIRS = pairs()
TARGET, LABEL = "trt-rtx:sm89", "trt-rtx-sm89"
APART = {"recoverable": 1}  # layers that a method runs beside those that the model uses


def covering():
    """Each method once, and the families in turn."""
    kinds = list(dict.fromkeys(pair.family for pair in PAIRS))
    chosen = []
    for number, name in enumerate(dict.fromkeys(pair.method for pair in PAIRS)):
        able = [pair for pair in PAIRS if pair.method == name]
        wanted = kinds[number % len(kinds)]
        chosen.append(next((pair for pair in able if pair.family == wanted), able[0]))
    missing = set(kinds) - {pair.family for pair in chosen}
    return chosen + [next(pair for pair in PAIRS if pair.family == kind) for kind in missing]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def play(pair, models, folder, target=TARGET, parity="full"):
    options = dict(pair.options)
    if "aux" in options:
        options["aux"] = {role: str(aux(role, pair.method, models)) for role in options["aux"]}
    recipe = Recipe(
        model=str(checkpoint(pair.family, models)),
        method=pair.method,
        keep=None if pair.method == "none" else BUDGETS.get(pair.method, KEEP),
        params=PARAMS.get(pair.method, {}),
        targets=(target,),
        max_batch=2,
        parity=parity,
        **options,
    )
    return export(recipe, folder / str(pair), Console(quiet=True))


def aux(role, name, models):
    """The file or folder that a method reads."""
    if role == "clip":
        return checkpoint("clip", models)
    path = models / f"{name}.safetensors"
    routers.WRITERS[name](path, DECODER_LAYERS)
    return path


def check(pair, models, folder):
    outcome = play(pair, models, folder)
    assert outcome.parity["verdict"] == "pass"
    assert set(outcome.parity["cases"]) == {"fp32", "fp16"}
    entry = outcome.contract["engines"][LABEL]
    fusion.check(pair, entry)
    plans = entry["fused_attention"]
    for picture in outcome.contract["pictures"]:
        layers = outcome.contract["geometry"]["tower_layers"]
        # all attention stays fused; score rows of a method may become such a kernel too
        assert sum(plans[picture["part"]].values()) >= layers + APART.get(pair.method, 0)
    for prefill in outcome.contract["prefill"]:
        assert sum(plans[prefill["part"]].values()) >= DECODER_LAYERS


def deep(pair):
    """Whether it cuts in the decoder: then there are twice as many parts to trace and build."""
    return method_class(pair.method).site != "encoder"


LEFT_OUT = {"pyramiddrop", "transprune", "vla-pruner"}  # minutes each; other tests export them
SHALLOW = [pair for pair in covering() if not deep(pair)]
PLAYED = [pair for kind in families() for pair in [p for p in SHALLOW if p.family == kind.__name__][:2]]
OTHERS = [pair for pair in PAIRS if pair not in covering() and not deep(pair)][::4]
DEEP = [pair for pair in covering() if deep(pair) and pair.method not in LEFT_OUT]


@pytest.mark.parametrize("pair", PLAYED, ids=str)
def test_some_pairs(pair, models, tmp_path):
    check(pair, models, tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("pair", [*DEEP, *(pair for pair in SHALLOW if pair not in PLAYED), *OTHERS], ids=str)
def test_every_other_pair(pair, models, tmp_path):
    check(pair, models, tmp_path)
