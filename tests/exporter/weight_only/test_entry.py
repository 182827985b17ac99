"""Graphs over quantised weights, on bundles of the demo model."""

import json
import shutil

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from rich.console import Console

from engines.bundle import open_bundle
from engines.errors import UserError
from exporter.add_engines import Wish, add_engines
from exporter.export import export
from exporter.recipe import Recipe
from exporter.shard import read_header
from exporter.weight_only import compare, quantised
from exporter.weight_only.entry import readers
from graph_passes import weight_only
from tests.graph_passes.graphs import operators

QUIET = Console(quiet=True)
TINY = 2.0**-14  # where float16 begins to have fewer digits


@pytest.fixture
def bundle(demo_bundle, tmp_path):
    """A copy of the demo's bundle, and what its bundle.json says."""
    shutil.copytree(demo_bundle, tmp_path / "small")
    return tmp_path / "small", json.loads((demo_bundle / "bundle.json").read_text())


def test_only_the_decoder_is_quantised(bundle):
    root, contract = bundle
    for part in ("vision", "embed"):
        assert quantised(root, contract, part, "fp32", "int4") == root / contract["parts"][part]["files"]["fp32"]
    assert not list((root / "onnx").glob("*int4*"))
    path = quantised(root, contract, "decoder", "fp32", "int4")
    assert path == root / "onnx/decoder.fp32.int4.onnx"
    before, after = (operators(ir.load(root / "onnx" / name)) for name in ("decoder.fp32.onnx", path.name))
    linears = 4 * 7 + 1
    assert after["DequantizeLinear"] == before["MatMul"] == after["MatMul"] == linears
    assert before["Transpose"] - after["Transpose"] == before["Cast"] - after["Cast"] == linears


def test_the_head_has_8_bits(bundle):
    root, contract = bundle
    graph = ir.load(quantised(root, contract, "decoder", "fp32", "int4")).graph
    kinds = {name: value.dtype for name, value in graph.initializers.items() if name.endswith(".codes")}
    assert {name for name, kind in kinds.items() if kind == ir.DataType.INT8} == {"lm_head.weight.codes"}
    assert set(kinds.values()) == {ir.DataType.INT4, ir.DataType.INT8}


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_engines_compute_what_the_codes_say(bundle, kind):
    """The same graph with every matrix made of its codes by NumPy gives the same numbers."""
    root, contract = bundle
    path = quantised(root, contract, "decoder", "fp32", kind)
    model, wide = ir.load(path), ir.load(root / "onnx/decoder.fp32.onnx")
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            plain = wide.graph.initializers[node.inputs[0].name.removesuffix(".codes")]
            numbers = by_numpy(node)
            plain.const_value = ir.tensor(np.ascontiguousarray(numbers.T))
            plain.dtype = ir.DataType.FLOAT
    ir.save(wide, root / "onnx/wide.onnx")
    assert len(weight_only.linears(wide)[0]) == 0
    feeds = inputs()
    got, want = (answers(root / "onnx" / name, feeds, plain=True) for name in (path.name, "wide.onnx"))
    for mine, other in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-5)
    fast = answers(path, feeds, plain=False)
    for mine, other in zip(fast, want, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-5)


def by_numpy(node):
    codes = node.inputs[0].const_value.numpy().astype(np.float32)
    scales = node.inputs[1].const_value.numpy()
    if (size := node.attributes.get("block_size")) is not None:
        return codes * np.repeat(scales, size.as_int(), axis=0)
    return codes * scales


def inputs():
    rng = np.random.default_rng(0)
    past = {
        f"past_key_values.{n}.{side}": np.zeros((1, 5, 1, 32), np.float32)
        for n in range(4)
        for side in ("key", "value")
    }
    mask = np.ones((1, 8), np.int64)
    mask[0, 0] = 0
    embeds = rng.standard_normal((1, 7, 160)).astype(np.float32)
    return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": np.arange(7)[None], **past}


def answers(path, feeds, *, plain):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options).run(None, feeds)


def test_precisions_share_the_codes(bundle):
    root, contract = bundle
    wide, half = (ir.load(quantised(root, contract, "decoder", dtype, "int4")).graph for dtype in ("fp32", "fp16"))
    for name, value in wide.initializers.items():
        other = half.initializers[name].const_value
        if name.endswith(".codes"):
            assert (value.const_value.location, value.const_value.offset) == (other.location, other.offset)
        if name.endswith(".scales"):
            np.testing.assert_array_equal(value.const_value.numpy(), other.numpy())
            assert (other.numpy() > TINY).all()
    tensors = read_header(root / "onnx/weights.int4.safetensors")
    assert len(tensors) == 2 * (4 * 7 + 1)
    shard = (root / "onnx/model.safetensors").stat().st_size
    assert sum(tensor.nbytes for tensor in tensors.values()) < 0.15 * shard


@pytest.mark.parametrize("target", ["ort-cpu", "ov-cpu"])
def test_an_engine_answers_and_the_table_says_how_well(bundle, target):
    root, _ = bundle
    added = add_engines(root, Wish((target,), weights="int4"), QUIET)
    assert added.built == [f"{target}-int4"]
    open_bundle(root)
    shown = compare(root, added.contract, f"{target}-int4")
    cells = {row[0]: row for row in shown.rows}
    assert cells["kept tokens shared"][2:] == ("100 %", "100 %")
    assert float(cells["logits, rms difference / rms"][2].split()[0]) < 10
    equal, _, steps = cells["next token equal"][2].split()
    assert int(steps) >= 4
    assert int(equal) > 0.8 * int(steps)
    assert add_engines(root, Wish((target,), weights="int4"), QUIET).kept == [f"{target}-int4"]


def test_a_plan_is_told_not_to_have_run(bundle):
    root, contract = bundle
    entry = {"target": "trt-rtx", "dtype": "fp16", "weights": "int4", "files": {}}
    shown = compare(root, {**contract, "engines": {"trt-rtx-int4": entry}}, "trt-rtx-int4")
    assert shown.rows == (("answers", "-", "not compared", "-"),)
    assert "not run here" in shown.note
    light = {**contract, "recipe": {**contract["recipe"], "parity": "vision"}}
    light["engines"] = {"ort-cpu-int4": {**entry, "target": "ort-cpu"}}
    assert "--parity full" in compare(root, light, "ort-cpu-int4").note


def test_parts_share_one_file(tmp_path):
    root = tmp_path / "split"
    export(Recipe(method="fastv", keep="64", targets=("ort-cpu",)), root, QUIET)
    contract = json.loads((root / "bundle.json").read_text())
    assert readers(contract) == ["prefill", "decode"]
    quantised(root, contract, "prefill", "fp32", "int4")
    file = root / "onnx/weights.int4.safetensors"
    before = file.stat().st_mtime_ns
    quantised(root, contract, "decode", "fp32", "int4")
    assert file.stat().st_mtime_ns == before
    added = add_engines(root, Wish(("ort-cpu",), weights="int4"), QUIET)
    cells = {row[0]: row for row in compare(root, added.contract, "ort-cpu-int4").rows}
    assert float(cells["kept tokens shared"][2].split()[0]) > 80


def test_opset_20_has_no_4_bits(tmp_path):
    root = tmp_path / "old"
    export(Recipe(method="fastervlm", keep="64", targets=("ort-cpu",), opset=20, parity="none"), root, QUIET)
    contract = json.loads((root / "bundle.json").read_text())
    with pytest.raises(UserError, match="opset 21, these graphs are of 20: take --weights int8"):
        quantised(root, contract, "decoder", "fp32", "int4")
    assert not list((root / "onnx").glob("*int4*"))
    graph = ir.load(quantised(root, contract, "decoder", "fp32", "int8"))
    assert operators(graph)["DequantizeLinear"] == 4 * 7 + 1


def test_no_such_precision(bundle):
    root, contract = bundle
    with pytest.raises(UserError, match="the bundle has no graphs in bf16"):
        quantised(root, contract, "decoder", "bf16", "int4")
