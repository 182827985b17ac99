"""The Python plugins: what a builder asks them, where a parser puts them, what they compute."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from graph_passes import functions, lower_select
from plugins import driver, shim, twins
from plugins.python_plugin import plugin_class
from tests.documents import ROOT
from tests.graph_passes.graphs import parsed
from tests.plugins.rtx import built

HEAD = '<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>\n'
ALL = """part ({kind}[b,24,16] x, float[b,24] s, float[b,2,24] t, float[b,24,24] m)
    => ({kind}[b,6,16] kept, int64[b,6] rows, int64[b,2,5] few, int64[b,12] picks)
<int64[1] last = {{-1}}> {{
    rows = tp.export.Select<k=6>(s)
    column = Unsqueeze(rows, last)
    kept = GatherND<batch_dims=1>(x, column)
    few = tp.export.Select<k=5>(t)
    picks = tp.export.DiverseSelect<k=12, form="max-min">(m, s)
}}"""
MEASURED = """part (float16[b,24,16] x, float[b,24] s, float[b,24,24] m, int64[1] count, float16[16,8] w)
    => (float16[b,r,8] y, int64[b,q] few, int64[b,p] picks) {
    kept, rows, many = tp.export.TokenSelect<k=6, dynamic=1, plugin_namespace="tp.export">(s, x, count)
    y = MatMul(kept, w)
    few, so_many = tp.export.Select<k=5, dynamic=1, plugin_namespace="tp.export">(s, count)
    picks, as_many = tp.export.DiverseSelect<k=7, dynamic=1, form="max-sum", plugin_namespace="tp.export">(m, s, count)
}"""
SHAPES = {"kept": [-1, 6, 16], "rows": [-1, 6], "few": [-1, 2, 5], "picks": [-1, 12]}
NAMES = ("TokenSelect", "Select", "DiverseSelect")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    def write(text, *, marked=True):
        model = parsed(HEAD + text)
        (functions if marked else lower_select).run(model)
        path = tmp_path_factory.mktemp("graph") / "part.onnx"
        ir.save(model, path)
        return path

    return write


@pytest.mark.parametrize("kind", ["float", "float16", "bfloat16"])
def test_the_parser_puts_them_in_the_functions_place(file, kind):
    """With a batch of any size; the builder asks each for its shapes, and none of it needs a GPU."""
    found = built(file(ALL.format(kind=kind)), plugins=True)
    assert (found["outputs"], found["error"]) == (SHAPES, "")
    assert len(found["plugins"]) == 3
    assert {f"{name} {call}" for name in NAMES for call in ("created", "shapes", "configured")} == set(found["calls"])


def test_without_them_the_bodies_are_taken(file):
    found = built(file(ALL.format(kind="float16")))
    assert (found["outputs"], found["plugins"], found["error"]) == (SHAPES, [], "")
    assert found["bytes"]


def test_the_attribute_alone_is_enough_for_this_parser(file):
    """It looks for a plugin first where a node names the plugin's namespace, whatever its flags."""
    found = built(file(ALL.format(kind="float16")), plugins=True, override=False)
    assert (found["outputs"], len(found["plugins"])) == (SHAPES, 3)


def test_a_parser_that_knows_no_flag_takes_them_where_no_body_is(file):
    """TensorRT before 10.7: the functions are stripped from what it reads."""
    path = file(ALL.format(kind="float16"))
    found = built(path, plugins=True, override=False, bare=True)
    assert (found["outputs"], len(found["plugins"])) == (SHAPES, 3)
    assert "Plugin not found" in built(path, override=False, bare=True)["error"]


def test_a_count_that_is_data_goes_through_a_size_tensor(file):
    found = built(file(MEASURED), plugins=True)
    assert (found["outputs"], found["error"]) == ({"y": [-1, -1, 8], "few": [-1, -1], "picks": [-1, -1]}, "")
    assert len(found["plugins"]) == 3


def test_more_tokens_than_topk_takes(file):
    """TensorRT's TopK ends at 3840; the kernels do not."""
    text = "part (float[b,5000] s) => (int64[b,4000] kept) { kept = tp.export.Select<k=4000>(s) }"
    found = built(file(text), plugins=True)
    assert (found["outputs"], len(found["plugins"])) == ({"kept": [-1, 4000]}, 1)
    assert "3840" in built(file(text))["error"]


def test_two_calls_of_one_function_are_two_plugins(file):
    text = """part (float[b,9] s, float[b,7] t) => (int64[b,4] a, int64[b,3] c) {
        a = tp.export.Select<k=4>(s)
        c = tp.export.Select<k=3>(t)
    }"""
    assert len(built(file(text), plugins=True)["plugins"]) == 2


class Port(SimpleNamespace):
    """A tensor's description, as TensorRT hands it to `enqueue`."""


def module():
    """As much of TensorRT as a plugin of no network needs."""
    bases = {name: type(name, (), {}) for name in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild")}
    kinds = {name: name for name in ("float32", "float16", "bfloat16", "int64")}
    return SimpleNamespace(**bases, **kinds, IPluginV3OneRuntime=type("Runtime", (), {}), nptype=np.dtype)


def memory(monkeypatch):
    """Host memory in the GPU's place."""

    class Driver:
        def cuMemcpyDtoHAsync_v2(self, to, of, size, _stream):  # noqa: N802 - the driver's names
            ctypes.memmove(to.value, of.value, size.value)
            return 0

        cuMemcpyHtoDAsync_v2 = cuMemcpyDtoHAsync_v2  # noqa: N815

        def cuStreamSynchronize(self, _stream):  # noqa: N802
            return 0

    monkeypatch.setattr(driver, "library", Driver)


def run(operator, inputs, outputs, **settings):
    plugin = plugin_class(module(), lambda _: None)(operator, **settings)
    ports = [Port(dims=array.shape, type=array.dtype.name) for array in inputs]
    at = ([array.ctypes.data for array in arrays] for arrays in (inputs, outputs))
    plugin.enqueue(ports, [], *at, 0, 0)


def test_they_compute_what_the_twins_compute(monkeypatch):
    memory(monkeypatch)
    source = np.random.default_rng(0)
    scores, tokens = source.integers(5, size=(2, 9)).astype(np.float32), source.random((2, 9, 4)).astype(np.float16)
    kept, indices = np.zeros((2, 4, 4), np.float16), np.zeros((2, 4), np.int64)
    run("TokenSelect", [scores, tokens], [kept, indices], k=4)
    np.testing.assert_array_equal(kept, twins.token_select(scores, tokens, 4)[0])
    np.testing.assert_array_equal(indices, twins.select(scores, 4))
    few, many = np.zeros((2, 3), np.int64), np.zeros((), np.int32)
    run("Select", [scores, np.array([3])], [few, many], k=4, dynamic=1)
    np.testing.assert_array_equal(few, twins.select(scores, 3))
    assert many == 3
    matrix, picks = source.random((2, 9, 9), np.float32), np.zeros((2, 4), np.int64)
    run("DiverseSelect", [matrix, scores], [picks], k=4, form="max-sum")
    np.testing.assert_array_equal(picks, twins.diverse_select(matrix, scores, 4, "max-sum"))


def test_without_a_gpu_they_say_so(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: (_ for _ in ()).throw(OSError))
    driver.library.cache_clear()
    with pytest.raises(RuntimeError, match="there is none: use the library"):
        driver.download(0, (1,), np.float32, 0)


def test_a_failing_driver_is_named(monkeypatch):
    failing = SimpleNamespace(cuMemcpyDtoHAsync_v2=lambda *_: 700, cuStreamSynchronize=lambda _: 700)
    monkeypatch.setattr(driver, "library", lambda: failing)
    with pytest.raises(RuntimeError, match="cuMemcpyDtoHAsync_v2: the GPU driver returned error 700"):
        driver.download(0, (1,), np.float32, 0)
    with pytest.raises(RuntimeError, match="cuStreamSynchronize"):
        driver.download(0, (0,), np.float32, 0)


LOADED = """import ctypes, tensorrt_rtx
from plugins.shim import preload
preload(tensorrt_rtx)
preload(tensorrt_rtx)
print(ctypes.CDLL("libtensorrt_rtx.so").getInferLibVersion())"""


def test_the_missing_name_is_loaded():
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10000


def test_the_stub_is_a_library_of_that_name(tmp_path):
    library = tmp_path / "stub.so"
    library.write_bytes(shim.stub("libnothing.so", next(path for path in loaded() if path.name.startswith("libc.so"))))
    ctypes.CDLL(str(library))
    assert ctypes.CDLL("libnothing.so").abs(-3) == 3


def loaded():
    from pathlib import Path

    return {Path(line.split(maxsplit=5)[-1].strip()) for line in Path("/proc/self/maps").open()}


def test_other_modules_need_nothing(monkeypatch):
    monkeypatch.setattr(shim, "_load", lambda _: pytest.fail("loaded"))
    shim.preload(SimpleNamespace(__name__="tensorrt"))
