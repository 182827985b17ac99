import _ctypes
import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from engines.backends import trt_rtx
from engines.errors import UserError
from engines.registry import BuildJob
from engines.settings import Settings
from engines.trt import layers
from engines.trt.build import fused_attention
from engines.trt.listing import layers_file
from graph_passes.legalise import EXPLICIT

HEADER = '<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>\n'
LAYER = """
    qkv{i} = MatMul({x}, w{i})
    q{i}, k{i}, v{i} = Split<axis = -1, num_outputs = 3>(qkv{i})
    a{i} = Attention<q_num_heads = 4, kv_num_heads = 4>(q{i}, k{i}, v{i})
    x{i} = Add(a{i}, {x})"""
PREFILL = {"x": ((1, 16, 128), (1, 64, 128), (2, 256, 128))}
STEP = {"x": ((1, 1, 128), (1, 1, 128), (2, 1, 128))}
RELU = "g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }"


def save_attention(file, dtype, layers=2, **where):
    """A few attention layers of four heads over [batch, tokens, 128]."""
    body = "".join(LAYER.format(i=i, x=f"x{i - 1}" if i else "x") for i in range(layers))
    kind = {np.float16: "float16", np.float32: "float"}[dtype]
    model = onnx.parser.parse_model(f"{HEADER} toy ({kind}[B,S,128] x) => ({kind}[B,S,128] x{layers - 1}) {{{body}\n}}")
    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal((128, 384)) * 0.05).astype(dtype) for _ in range(layers)]
    model.graph.initializer.extend(numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights))
    onnx.save(model, file, **where)


def save(file, text):
    onnx.save(onnx.parser.parse_model(HEADER + text), file)


@pytest.fixture
def job(tmp_path):
    def make(profiles=(), options=(), tell=None, **settings):
        out = tmp_path / "engines" / "part.plan"
        wishes = Settings(**settings)
        return BuildJob(
            "decoder", tmp_path / "part.onnx", out, tmp_path / "log", profiles, options, settings=wishes, tell=tell
        )

    return make


def refuse(job, match):
    with pytest.raises(UserError, match=match) as caught:
        trt_rtx.build(job)
    assert "\n" not in str(caught.value)
    assert "'decoder'" in str(caught.value)
    assert not job.out.parent.exists() or list(job.out.parent.iterdir()) == []


def test_fused_attention_is_counted_by_layer_and_profile(job):
    save_attention(job().onnx, np.float16)
    result = trt_rtx.build(job([PREFILL, STEP]))
    assert result.details["fused_attention"] == {"_gemm_mha_v2": 2, "_gemv_mha_v1": 2}
    assert result.file == job().out
    assert result.bytes == job().out.stat().st_size > 2 * 128 * 384 * 2
    assert result.peak_mib > 50
    assert result.seconds > 0


def test_layers_are_listed_beside_the_plan_and_reported(job):
    save_attention(job().onnx, np.float16)
    result = trt_rtx.build(job([PREFILL, STEP]))
    listed = layers.load(layers_file(result.file))
    assert layers_file(result.file).name == "part.layers.json"
    assert {layer.profile for layer in listed} == {0, 1}
    assert listed == layers.read(job().log.read_text(encoding="utf-8", errors="replace"))
    assert result.details["fusion"]["attention"] == 2
    assert [profile["unfused"] for profile in result.details["fusion"]["profiles"]] == [[], []]
    assert json.loads(json.dumps(result.details)) == result.details


def test_details_name_the_builder_and_the_gpus(job):
    import tensorrt_rtx

    save(job().onnx, RELU)
    shapes = [{"x": ((1, 2), (1, 2), (4, 2))}]
    told = [trt_rtx.build(job(shapes, options)).details for options in ((), ("sm86", "sm89"))]
    assert [each["gpu"] for each in told] == ["portable, Ampere and later", "sm86,sm89"]
    assert {each["builder"] for each in told} == {tensorrt_rtx.__version__}


def test_the_count_does_not_depend_on_the_number_of_gpus(job):
    save_attention(job().onnx, np.float16)
    result = trt_rtx.build(job([PREFILL], ("sm86", "sm89")))
    assert result.details["fused_attention"] == {"_gemm_mha_v2": 2}


def test_settings_reach_the_builder(job):
    save_attention(job().onnx, np.float16)
    result = trt_rtx.build(job([PREFILL], weight_streaming=True, level=1))
    assert result.details["fused_attention"] == {"_gemm_mha_v2": 2}


def test_fp32_attention_builds_once_it_is_written_out(job):
    assert trt_rtx.legal("fp16") == ()
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]>
        toy (float[B,4,S,32] x) => (float[B,4,S,32] y) { y = Attention(x, x, x) }"""
    )
    for name in trt_rtx.legal("fp32"):
        assert EXPLICIT[name](model).rewrites == 1
    ir.save(model, job().onnx)
    result = trt_rtx.build(job([{"x": ((1, 4, 16, 32), (1, 4, 64, 32), (2, 4, 256, 32))}]))
    assert result.details["fused_attention"] == {}
    assert fused_attention(job().out) == {}


def test_progress_is_told_while_the_builder_works(job):
    said = []
    save_attention(job().onnx, np.float16, layers=6)
    trt_rtx.build(job([PREFILL, STEP], tell=said.append))
    shares = [int(text.split(" %, ")[0]) for text in said]
    assert said
    assert shares == sorted(shares)


def test_a_killed_builder_says_what_to_lower(job):
    save_attention(job().onnx, np.float16, layers=12)
    me = os.getpid()

    def kill(_):
        children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)

    refuse(
        job([PREFILL, STEP], tell=kill),
        r"of SIGKILL, out of memory\? lower --max-batch, --max-length or --level, or build with --weight-streaming",
    )


def test_an_unsupported_node_is_one_line(job):
    save(job().onnx, "g (float[N] x) => (int64[1,M] y) { [odd] y = NonZero(x) }")
    refuse(job(), r"building 'decoder' for trt-rtx .*refuses NonZero odd: .* \(log: .*log\)")


def test_an_unknown_operator_is_one_line(job):
    save(job().onnx, "g (float[2,4] x) => (int64[2,2] y) { [pick] y = tp.export.Select<k = [2]>(x) }")
    refuse(job(), "refuses Select pick: no such operator, and no plugin of that name; name a --plugin that has it")


def test_a_limit_found_while_building_is_one_line(job):
    header = "g (float[1,5000] x) => (float[1,4000] v, int64[1,4000] i) <int64[1] k = {4000}>"
    save(job().onnx, header + " { [best] v, i = TopK(x, k) }")
    refuse(job(), "failed: TopK best takes at most 3840: lower --keep, or build with --plugin")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"garbage" * 10, "refuses the file: it is no ONNX model, or not all of one; copy or export it again"),
        (b"", "found no graph in the file: copy or export it again"),
    ],
)
def test_a_file_that_is_no_graph_is_one_line(job, data, match):
    job().onnx.write_bytes(data)
    refuse(job(), match)


@pytest.mark.parametrize("size", [None, 100])
def test_weights_that_are_missing_or_short_are_one_line(job, size):
    save_attention(job().onnx, np.float16, save_as_external_data=True, location="part.bin", size_threshold=9)
    weights = job().onnx.with_name("part.bin")
    os.truncate(weights, size) if size else weights.unlink()
    refuse(job([PREFILL]), r"refuses the file's weights: .*part\.bin.*; copy or export them again")


@pytest.mark.parametrize(
    ("profiles", "match"),
    [
        ([], "no optimization profile"),
        ([{"y": ((1,), (1,), (1,))}], "disagree about the inputs x, y"),
        ([{"x": ((4, 2), (3, 2), (9, 2))}], r"\(x 4x2..9x2\) failed: .*MIN<=OPT<=MAX"),
    ],
)
def test_wrong_profiles_are_one_line(job, profiles, match):
    save(job().onnx, RELU)
    refuse(job(profiles), match)


@pytest.mark.parametrize("size", [100_000, 2_000])
def test_a_plan_that_does_not_fit_leaves_nothing(job, size):
    save_attention(job().onnx, np.float16)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))  # the log may not grow beyond it either
    try:
        refuse(job([PREFILL]), "cannot write .*part.plan: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_unknown_gpus_are_refused_before_anything_is_built(job):
    with pytest.raises(UserError, match="unknown GPU 'sm87'; known are sm75, sm80, sm86, sm89, sm120"):
        trt_rtx.build(job([], ("sm86", "sm87")))
    assert not job().log.exists()


def test_a_plugin_library_that_is_none_is_one_line(job, tmp_path):
    save(job().onnx, RELU)
    refuse(job(plugin=str(tmp_path / "none.so")), r"none\.so: there is no such plugin library; build it")
    (tmp_path / "text.so").write_text("text")
    refuse(job(plugin=str(tmp_path / "text.so")), r"text\.so is no shared library; build it")
    refuse(job(plugin=_ctypes.__file__), "is no library of tp-export's plugins, it lacks getCreators")
