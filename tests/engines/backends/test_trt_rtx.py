import resource

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from engines.backends import trt_rtx
from engines.errors import UserError
from engines.registry import BuildJob
from engines.rtx_build import fused_attention
from graph_passes.legalise import EXPLICIT

LAYER = """
    qkv{i} = MatMul({x}, w{i})
    q{i}, k{i}, v{i} = Split<axis = -1, num_outputs = 3>(qkv{i})
    a{i} = Attention<q_num_heads = 4, kv_num_heads = 4>(q{i}, k{i}, v{i})
    x{i} = Add(a{i}, {x})"""
PREFILL = {"x": ((1, 16, 128), (1, 64, 128), (2, 256, 128))}
STEP = {"x": ((1, 1, 128), (1, 1, 128), (2, 1, 128))}


def save_attention(file, dtype, layers=2):
    """A few attention layers of four heads over [batch, tokens, 128]."""
    body = "".join(LAYER.format(i=i, x=f"x{i - 1}" if i else "x") for i in range(layers))
    kind = {np.float16: "float16", np.float32: "float"}[dtype]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]>\n'
        f"toy ({kind}[B,S,128] x) => ({kind}[B,S,128] x{layers - 1}) {{{body}\n}}"
    )
    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal((128, 384)) * 0.05).astype(dtype) for _ in range(layers)]
    model.graph.initializer.extend(numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights))
    onnx.save(model, file)


def save(file, text):
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]>\n{text}'), file)


@pytest.fixture
def job(tmp_path):
    def make(profiles=(), options=()):
        out = tmp_path / "engines" / "part.plan"
        return BuildJob("decoder", tmp_path / "part.onnx", out, tmp_path / "log", profiles, options)

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
    assert result.details == {"fused_attention": {"_gemm_mha_v2": 2, "_gemv_mha_v1": 2}}
    assert result.file == job().out
    assert result.bytes == job().out.stat().st_size > 2 * 128 * 384 * 2
    assert result.peak_mib > 50
    assert result.seconds > 0


def test_the_count_does_not_depend_on_the_number_of_gpus(job):
    save_attention(job().onnx, np.float16)
    result = trt_rtx.build(job([PREFILL], ("sm86", "sm89")))
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


def test_an_unsupported_node_is_one_line(job):
    save(job().onnx, "g (float[N] x) => (int64[1,M] y) { y = NonZero(x) }")
    refuse(job(), r"building 'decoder' for trt-rtx .*refuses NonZero: .* \(log: .*log\)")


def test_a_limit_found_while_building_is_one_line(job):
    header = "g (float[1,5000] x) => (float[1,4000] v, int64[1,4000] i) <int64[1] k = {4000}>"
    save(job().onnx, header + " { v, i = TopK(x, k) }")
    refuse(job(), "K exceeds the maximum value allowed")


def test_a_file_that_is_no_graph_is_one_line(job):
    job().onnx.write_bytes(b"garbage" * 10)
    refuse(job(), "the ONNX parser refuses the file")


@pytest.mark.parametrize(
    ("profiles", "match"),
    [
        ([], "no optimization profile"),
        ([{"y": ((1,), (1,), (1,))}], "disagree about the inputs x, y"),
        ([{"x": ((4, 2), (3, 2), (9, 2))}], r"\(x 4x2..9x2\) failed: .*MIN<=OPT<=MAX"),
    ],
)
def test_wrong_profiles_are_one_line(job, profiles, match):
    save(job().onnx, "g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }")
    refuse(job(profiles), match)


def test_a_plan_that_does_not_fit_leaves_nothing(job):
    save_attention(job().onnx, np.float16)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refuse(job([PREFILL]), "OSError.* File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_unknown_gpus_are_refused_before_anything_is_built(job):
    with pytest.raises(UserError, match="unknown GPU 'sm87'; known are sm75, sm80, sm86, sm89, sm120"):
        trt_rtx.build(job([], ("sm86", "sm87")))
    assert not job().log.exists()


def test_running_a_plan_is_refused(tmp_path):
    with pytest.raises(UserError, match="run on an NVIDIA GPU"):
        trt_rtx.load(tmp_path / "x.plan")


def test_precision_keeps_the_checkpoints_16_bit_type():
    assert [trt_rtx.dtype(d) for d in ("fp32", "fp16", "bf16")] == ["fp16", "fp16", "bf16"]
