"""The form of a real export: graphs, engines, what is reused, what later commands find."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from rich.console import Console

from engines.bundle import open_bundle
from engines.session import Session
from exporter.cli import tp_export
from exporter.export import export
from exporter.pictures import pictures
from exporter.recipe import Recipe

GRAPHS = [f"{part}.{dtype}" for part in ("vision", "embed", "decoder") for dtype in ("fp32", "fp16")]
FIXED = {"vision": {"batch"}, "embed": {"batch", "tokens", "rows"}, "decoder": {"batch", "tokens", "past"}}


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_are_valid_and_name_their_axes(demo_bundle, graph):
    path = demo_bundle / "onnx" / f"{graph}.onnx"
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert {opset.domain for opset in model.opset_import} == {""}
    dims = [dim for tensor in model.graph.input for dim in tensor.type.tensor_type.shape.dim]
    axes = {axis for dim in dims if dim.dim_param for axis in dim.dim_param.split("+")}
    assert axes <= FIXED[graph.split(".")[0]]


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_the_budget_fixes_is_constant(demo_bundle, graph):
    """No data-dependent operator; every Shape reads dynamic axes only."""
    model = onnx.load(demo_bundle / "onnx" / f"{graph}.onnx", load_external_data=False)
    assert not {"NonZero", "If", "Loop", "Scan", "Compress", "Unique"} & {node.op_type for node in model.graph.node}
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: v.type.tensor_type.shape.dim for v in [*inferred.graph.value_info, *inferred.graph.input]}
    for node in model.graph.node:
        if node.op_type == "Shape":
            picked = {a.name: a.i for a in node.attribute}
            dims = known[node.input[0]][picked.get("start", 0) : picked.get("end")]
            assert dims
            assert all(not dim.dim_value for dim in dims), f"{node.name} reads a static axis"


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_are_the_shards_own_bytes(demo_bundle, graph):
    path = demo_bundle / "onnx" / f"{graph}.onnx"
    model = onnx.load(path, load_external_data=False)
    external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    inside = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    assert {next(e.value for e in t.external_data if e.key == "location") for t in external} == {"model.safetensors"}
    assert sum(len(t.raw_data) for t in inside) < 10_000
    assert path.stat().st_size < 100_000
    assert b"/site-packages" not in path.read_bytes()


def test_engines_of_every_target(demo_bundle):
    engines = open_bundle(demo_bundle).contract["engines"]
    assert engines.keys() == {"ort-cpu", "ov-cpu", "trt-rtx"}
    fused = engines["trt-rtx"]["fused_attention"]
    assert fused["vision"] == {"_gemm_mha_v2": 4}  # four tower layers, the scored one among them
    # prompt profile, whose last layer asks for one row only, and step profile
    assert fused["decoder"] == {"_gemm_mha_v2": 3, "_gemv_mha_v1": 5}
    assert engines["trt-rtx"]["dtype"] == "fp16"


def test_the_demo_answers_right(demo_bundle):
    session = Session.open(demo_bundle)
    for picture in pictures("demo"):
        for question in picture.questions:
            command = ["run", str(demo_bundle), "--image", str(picture.path), "--prompt", question.text]
            assert CliRunner().invoke(tp_export, command).output == f"{question.answer}\n"
    assert session.contract.eos == (2,)


def test_parity_file_tells_every_level(demo_bundle):
    parity = json.loads((demo_bundle / "parity.json").read_text())
    assert parity["verdict"] == "pass"
    told = {(row["level"], row["dtype"]) for row in parity["rows"]}
    assert told == {(level, d) for level in ("indices", "embeddings", "logits", "tokens") for d in ("fp32", "fp16")}
    assert len(parity["cases"]["fp32"]) == 16  # two pictures, two questions each, four levels
    assert {pair["what"] for pair in parity["speed"]} == {"vision", "prefill", "first token"}


def test_running_needs_neither_torch_nor_transformers(demo_bundle):
    picture = str(pictures("demo")[0].path)
    command = ["run", str(demo_bundle), "--image", picture, "--prompt", "what shape is purple ?"]
    code = (
        "import sys; from exporter.cli import tp_export\n"
        f"tp_export({command!r}, standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cross\n[]\n"


def test_check_passes(demo_bundle):
    assert CliRunner().invoke(tp_export, ["check", str(demo_bundle)]).exit_code == 0


def test_another_budget_reuses_what_it_does_not_touch(demo_bundle, tmp_path):
    console = Console(record=True, quiet=False, file=(tmp_path / "log").open("w"), width=200)
    outcome = export(Recipe(method="fastervlm", keep="11%", targets=("ort-cpu",)), tmp_path / "other", console)
    lines = {line.split(": ")[0].split("] ")[1]: line for line in console.export_text().splitlines() if "] " in line}
    assert "reused" in lines["trace decoder in fp32"]
    assert "reused" not in lines["trace vision in fp32"]
    assert outcome.contract["pictures"][0]["tokens"] == 16


def test_dense_keeps_every_patch(demo_bundle, tmp_path):
    outcome = export(Recipe(method="none", targets=("ort-cpu",)), tmp_path / "dense", Console(quiet=True))
    session = Session.open(outcome.path)
    assert outcome.parity["speed"] == []
    from engines.images import open_image

    seen = session.see([open_image(pictures("demo")[0].path)])
    assert np.array_equal(seen[0]["kept_indices"], np.arange(144))


def test_llava_geometry_with_the_hubs_names(tmp_path):
    """Sharded, grouped queries, 576 patches: the real layout at small width; a picture that is not square."""
    recipe = Recipe(model="demo:llava-1.5", method="fastervlm", keep="64", targets=("ort-cpu", "trt-rtx:sm89"))
    outcome = export(recipe, tmp_path / "llava", Console(quiet=True))
    assert outcome.parity["verdict"] == "pass"
    assert outcome.contract["pictures"][0]["tokens"] == 64
    assert len(list((outcome.path / "onnx").glob("*.safetensors"))) >= 2
    assert outcome.contract["engines"]["trt-rtx-sm89"]["options"] == ["sm89"]
    swapped = [row for row in outcome.parity["cases"]["fp32"] if row["level"] == "indices"]
    assert all(row["note"] == "64 of 64" for row in swapped)
