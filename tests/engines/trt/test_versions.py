"""Which row a version number means, and the forms that graphs take for it."""

import shutil

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from engines.backends import trt
from engines.errors import UserError
from engines.trt import rules, versions
from graph_passes.legalise import LEGAL

AXES = {"batch": 2, "tokens": 3, "past": 4, "past+tokens": 7, "rows": 64}


@pytest.mark.parametrize(
    ("number", "name"),
    [("8.6.1", "10.3"), ("10.3.0.30", "10.3"), ("10.7", "10.3"), ("10.8", "10.13"), ("10.13.3.9", "10.13"),
     ("10.14.1", "10.13"), ("10.15", "10.16"), ("10.16.1.11", "10.16"), ("11", "11"), ("11.4.1", "11")],
)  # fmt: skip
def test_a_number_means_a_row(number, name):
    assert versions.of(number).name == name
    assert versions.of(number, rtx=True) is versions.RTX


def test_rows_are_known_by_name_and_say_how_they_are_known():
    rows = (*versions.VERSIONS, versions.RTX)
    assert [versions.named(row.name) for row in rows] == list(rows)
    assert all(row.source.endswith("never run") for row in versions.VERSIONS)
    assert versions.RTX.source.startswith("measured")
    assert [row.label for row in rows][::4] == ["TensorRT 10.3", "TensorRT-RTX 1.7"]
    with pytest.raises(UserError, match=r"unknown TensorRT '9': known are 10\.3, 10\.13, 10\.16, 11, rtx-1\.7"):
        versions.named("9")


def test_a_target_asks_for_the_form_of_what_is_installed(monkeypatch):
    for number, wanted in (("10.3.0", versions.form(versions.VERSIONS[0], "fp16")), ("10.16.1", ()), ("11.4", ())):
        monkeypatch.setattr(trt, "version", lambda number=number: number)
        assert trt.legal("fp16") == wanted
        assert "explicit_attention" in trt.legal("fp32")
    old, newer = (set(versions.form(versions.named(name), "fp16")) for name in ("10.3", "10.13"))
    assert (old - newer, newer - old, old | newer) == ({"float_cumsum", "opset_20"}, {"opset_22"}, LEGAL.keys())


@pytest.mark.parametrize("name", ["10.3", "10.13"])
@pytest.mark.parametrize("part", ["vision", "embed", "decoder"])
def test_a_published_graph_computes_the_same_in_the_form_of_an_old_version(demo_bundle, tmp_path, part, name):
    version, published = versions.named(name), demo_bundle / "onnx" / f"{part}.fp32.onnx"
    model, formed = ir.load(published), tmp_path / "formed.onnx"
    assert [LEGAL[each](model).refusals for each in versions.form(version, "fp32")].count(()) > 3
    for shard in published.parent.glob("*.safetensors"):
        shutil.copy(shard, tmp_path)
    ir.save(model, formed)
    assert rules.check(formed, version, 87) == []
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    one, other = (onnxruntime.InferenceSession(file, options) for file in (published, formed))
    feeds = {port.name: random(port) for port in one.get_inputs()}
    for expected, got in zip(one.run(None, feeds), other.run(None, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def random(port):
    """Numbers for an input: floats around zero, tokens and positions that exist, masks of ones."""
    shape = [AXES[size] if isinstance(size, str) else size for size in port.shape]
    numbers = np.random.default_rng(len(port.name))
    if "int64" not in port.type:
        return numbers.normal(size=shape).astype(np.float32)
    return np.ones(shape, np.int64) if "mask" in port.name else numbers.integers(0, 60, shape)
