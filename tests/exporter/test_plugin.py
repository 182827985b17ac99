"""`--plugin`: a second graph whose selections are functions, over the same weights, with the same numbers."""

import dataclasses
import json
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from rich.console import Console

from engines.bundle import open_bundle
from exporter import ahead
from exporter.build_parts import Tracer
from exporter.cli import tp_export
from exporter.draft import Draft
from exporter.progress import Reporter
from exporter.publish import place
from exporter.recipe import Recipe
from tests.plugins.rtx import built

CALLS = {  # by method: the part that selects, and what it calls
    "fastervlm": ("vision", ["Select"]),
    "visionzip": ("vision", ["TokenSelect"]),
    "divprune": ("vision", ["DiverseSelect"]),
    "fastv": ("prefill", ["TokenSelect"]),
    "todre": ("vision", ["DiverseSelect"]),
    "pyramiddrop": ("prefill", ["TokenSelect"] * 3),
    "vispruner": ("vision", []),  # ranks and peels: nothing that a plugin knows
}
METHODS = [pytest.param(name, marks=[pytest.mark.matrix] * (rank > 3)) for rank, name in enumerate(CALLS)]


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The part that selects, its graph, and the one with functions, beside the shards that they read."""

    @cache
    def part(method, dtype="fp16", **more):
        keep = "50%" if method == "pyramiddrop" else "32"
        draft = Draft.of(Recipe(**{"method": method, "keep": keep, "targets": ("ort-cpu",), "plugin": True} | more))
        tracer, quiet = Tracer(draft, dtype, draft.checkpoint.dir), Reporter(Console(quiet=True), 0)
        if CALLS[method][0] == "vision":
            made = tracer._vision(draft.main, quiet)
        else:
            made = tracer._prefill(draft.prompts[-1], {}, (), quiet)
        folder = tmp_path_factory.mktemp(method)
        for file in draft.checkpoint.files:
            place(draft.checkpoint.path(file), folder / file)
        return made, beside(made.file, folder, "part"), beside(made.plugin, folder, "plugin")

    return part


def beside(file, folder, name):
    if file is None:
        return None
    place(file, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def calls(path):
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node if node.domain]


def feeds(part, batch=2, rows=170):
    """Random arrays for a part: pictures, or prompts each with one picture in it."""
    source, sizes = np.random.default_rng(0), {"batch": batch, "images": 1, "tokens": rows}
    shapes = {port.name: [sizes.get(size, size) for size in port.shape] for port in part.inputs}
    floats = {port.name: np.float16 if port.dtype == "float" else np.float32 for port in part.inputs}
    fed = {name: source.normal(size=shape).astype(floats[name]) for name, shape in shapes.items()}
    known = {"attention_mask": 1, "span_starts": 5, "position_ids": np.arange(rows)}
    return fed | {name: np.full(shapes[name], number, np.int64) for name, number in known.items() if name in fed}


def run(path, fed):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, fed)


@pytest.mark.parametrize("method", METHODS)
def test_both_graphs_compute_the_same(traced, method):
    part, published, plugin = traced(method)
    assert calls(published) == []
    assert (calls(plugin) if plugin else []) == CALLS[method][1]
    if plugin is None:
        return
    onnx.checker.check_model(plugin, full_check=True)
    equal(part, published, plugin)


def equal(part, published, plugin):
    fed = feeds(part)
    want = run(published, fed)
    assert len(want) == len(part.outputs)
    for got, wanted in zip(run(plugin, fed), want, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("method", ["fastervlm", "divprune", "fastv"])
def test_tensorrt_inlines_the_functions_or_takes_the_plugins(traced, method):
    """Built for a GPU that is not there; a Loop beside fused attention takes one picture at a time, a plugin four."""
    _, _, plugin = traced(method)
    sizes = {"batch": 1 if method == "divprune" else 4, "tokens": 200}
    inlined = built(plugin, sizes=sizes)
    swapped = built(plugin, plugins=True, sizes=sizes | {"batch": 4})
    assert (inlined["error"], inlined["plugins"]) == ("", [])
    assert (swapped["error"], len(swapped["plugins"])) == ("", len(CALLS[method][1]))
    assert inlined["outputs"] == swapped["outputs"]
    assert {call.split()[0] for call in swapped["calls"]} == set(CALLS[method][1])


def test_other_opsets_and_index_types_apply_to_both(traced):
    part, published, plugin = traced("visionzip", opset=20, indices="int32")
    model = onnx.load(plugin, load_external_data=False)
    assert {each.domain: each.version for each in model.opset_import} == {"": 20, "tp.export": 1}
    assert [each.version for function in model.functions for each in function.opset_import] == [20]
    assert model.ir_version == 9
    assert onnx.TensorProto.INT64 not in {port.type.tensor_type.elem_type for port in model.graph.output}
    onnx.checker.check_model(plugin, full_check=True)
    equal(part, published, plugin)


def test_the_published_graph_does_not_change_by_one_byte(traced):
    (marked, _, _), (plain, _, _) = traced("visionzip"), traced("visionzip", plugin=False)
    assert plain.file != marked.file
    assert plain.file.read_bytes() == marked.file.read_bytes()
    assert plain.plugin is None


def test_a_child_that_traces_ahead_knows_of_it(monkeypatch):
    seen = []
    monkeypatch.setattr(Tracer, "all", lambda tracer, _: seen.append(tracer.draft.recipe) or {})
    recipe = Recipe(method="visionzip", keep="32", targets=("ort-cpu",), plugin=True)
    ahead.trace_here(json.loads(json.dumps(dataclasses.asdict(recipe))), "fp16", ".")
    assert seen == [recipe]


def test_an_export_publishes_it_beside_the_other(tmp_path):
    """And what reads a bundle finds it, over the weights that are there."""
    out = tmp_path / "bundle"
    wishes = ["--target", "ort-cpu", "--dtype", "fp16", "--plugin", "--parity", "none"]
    done = CliRunner().invoke(tp_export, ["--method", "visionzip", "--keep", "32", *wishes, "-o", str(out)])
    assert done.exit_code == 0, done.output
    contract = open_bundle(out).contract
    names = {dtype: f"onnx/vision.{dtype}.plugin.onnx" for dtype in ("fp32", "fp16")}
    assert {name: part["plugin_files"] for name, part in contract["parts"].items()} == {
        "vision": names,
        "embed": {},
        "decoder": {},
    }
    assert contract["recipe"]["plugin"] is True
    assert set(names.values()) <= contract["files"].keys()
    for dtype, name in names.items():
        published = out / "onnx" / f"vision.{dtype}.onnx"
        assert calls(out / name) == ["TokenSelect"]
        assert weights(out / name) == weights(published)
        assert (out / name).stat().st_size < published.stat().st_size * 1.1


def weights(path):
    stored = onnx.load(path, load_external_data=False).graph.initializer
    return {(tensor.name, *(each.value for each in tensor.external_data)) for tensor in stored if tensor.external_data}
