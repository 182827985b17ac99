"""Other opsets, int32 indices, graphs of a target's own: exports that say what they are, and work."""

import dataclasses

import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from rich.console import Console

from engines.bundle import open_bundle
from engines.errors import UserError
from exporter.cli import tp_export
from exporter.export import export
from exporter.legal import legal, legal_ports
from exporter.parts.base import Port
from exporter.pictures import pictures
from exporter.recipe import Recipe
from exporter.recipe_checks import check_recipe
from tests.exporter.mistakes import refused

SCATTER = """<ir_version: 10, opset_import: ["" : 23]>
decode (float[b,2,9,4] cache, int64[b,2,t,4] index, float[b,2,t,4] rows) => (float[b,2,9,4] y)
{ y = ScatterElements <axis = 2> (cache, index, rows) }"""


def made(folder, **recipe):
    """A published bundle of the demo model, its engines built, whose parity holds now and later."""
    console = Console(quiet=True)
    outcome = export(Recipe(targets=("ort-cpu", "trt-rtx:sm89"), **recipe), folder / "bundle", console)
    assert outcome.parity["verdict"] == "pass"
    assert CliRunner().invoke(tp_export, ["check", str(outcome.path)]).exit_code == 0
    picture = pictures("demo")[0]
    command = ["run", str(outcome.path), "--image", str(picture.path), "--prompt", picture.questions[0].text]
    answered = CliRunner().invoke(tp_export, command)
    assert answered.exit_code == 0
    assert answered.output.strip()
    return outcome.path, open_bundle(outcome.path).contract


def graphs(path, opset):
    """Every published graph; each is valid and of this opset."""
    found = {}
    for file in sorted((path / "onnx").glob("*.onnx")):
        onnx.checker.check_model(file, full_check=True)
        model = onnx.load(file, load_external_data=False)
        assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
        found[file.name] = model
    return found


def operators(model):
    return {node.op_type for node in model.graph.node}


def test_a_search_at_opset_20_with_int32_indices(tmp_path):
    path, contract = made(tmp_path, method="divprune", keep="32", opset=20, indices="int32", dtype="fp32")
    found = graphs(path, 20)
    assert "Loop" in operators(found["vision.fp32.onnx"])
    kinds = {
        port["dtype"] for part in contract["parts"].values() for side in ("inputs", "outputs") for port in part[side]
    }
    assert kinds == {"float", "int32"}
    for model in found.values():
        ports = [*model.graph.input, *model.graph.output]
        assert onnx.TensorProto.INT64 not in {port.type.tensor_type.elem_type for port in ports}
    assert contract["engines"]["trt-rtx-sm89"]["graphs"]["vision"] == "onnx/vision.fp32.onnx"  # explicit already


def test_static_caches_at_opset_24_are_written_in_place(tmp_path):
    path, contract = made(tmp_path, method="fastv", keep="32", kv="static", max_length=256, opset=24)
    found = graphs(path, 24)
    assert "ScatterElements" not in operators(found["decode.fp16.onnx"])
    assert contract["parts"]["decode"]["operators"]["TensorScatter"] == 8
    [slots] = [port for port in contract["parts"]["decode"]["inputs"] if port["name"] == "slots.0"]
    assert slots["meaning"].endswith("; each is one more than the one before")
    fused = contract["engines"]["trt-rtx-sm89"]["fused_attention"]
    assert sum(fused["decode"].values()) == 8  # prompt profile, step profile


def test_a_target_that_reads_another_form_has_its_own_graph(demo_bundle, tmp_path):
    """`demo_bundle` has traced the parts already; fp32 attention is no operator that TensorRT has kernels for."""
    path, contract = made(tmp_path, method="fastervlm", keep="64", dtype="fp32")
    built = contract["engines"]["trt-rtx-sm89"]
    assert built["graphs"]["decoder"] == "onnx/decoder.fp32.trt-rtx-sm89.onnx"
    assert built["graphs"]["embed"] == "onnx/embed.fp32.onnx"
    found = graphs(path, 23)
    assert "Attention" in operators(found["decoder.fp32.onnx"])
    assert "Attention" not in operators(found["decoder.fp32.trt-rtx-sm89.onnx"])
    assert contract["engines"]["ort-cpu"]["graphs"]["decoder"] == "onnx/decoder.fp32.onnx"


@pytest.mark.matrix
@pytest.mark.parametrize("method", ["fastervlm", "fastv"])
def test_attention_at_opset_20_is_fused_as_at_23(method, tmp_path):
    path, contract = made(tmp_path, method=method, keep="64", opset=20)
    assert all("Attention" not in operators(model) for model in graphs(path, 20).values())
    fused = contract["engines"]["trt-rtx-sm89"]["fused_attention"]
    last = "decode" if method == "fastv" else "decoder"
    assert sum(fused["vision"].values()) == sum(fused.get("prefill", fused["vision"]).values()) == 4
    assert sum(fused[last].values()) == 8  # prompt profile, step profile


def test_what_an_opset_does_not_have_is_one_line():
    recipe = Recipe(method="fastv", keep="32", kv="static", opset=24)
    with pytest.raises(UserError, match=r"--opset 24: part .decode. cannot be written in it: ScatterElements .*consec"):
        legal(ir.from_onnx_text(SCATTER), recipe, {}, ())
    legal(ir.from_onnx_text(SCATTER), dataclasses.replace(recipe, opset=20), {}, ())


def test_ports_say_what_the_graph_takes():
    port = Port("slots.0", "int64", ("batch", "tokens"), "where")
    assert legal_ports([port], Recipe()) == (port,)
    [narrow] = legal_ports([port], Recipe(indices="int32", opset=24, kv="static"))
    assert (narrow.dtype, narrow.meaning) == ("int32", "where; each is one more than the one before")


def test_opset_24_without_a_use_for_it_is_refused():
    with pytest.raises(UserError, match="--opset 24: what it brings is writes into static caches; add --kv static"):
        check_recipe(Recipe(keep="64", opset=24))
    refused("--method", "fastervlm", "--keep", "64", "--opset", "21", says="--opset")
    refused("--method", "fastervlm", "--keep", "64", "--indices", "int16", says="--indices")
