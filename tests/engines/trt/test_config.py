import enum

import onnx
import pytest

from engines.errors import UserError
from engines.settings import Settings
from engines.trt.build import build_plan
from plugins import library
from tests.engines.trt.fake_gpu import Engine
from tests.engines.trt.fake_tensorrt import save_graph

GRAPH = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"
CALL = """g (float[1,4] x) => (int64[1,2] y) { y = tp.export.Select<k = [2], plugin_namespace = "tp.export">(x) }
<domain: "tp.export", opset_import: ["" : 20]>
Select<k, plugin_namespace> (x) => (i) { c = Constant<value_ints: ints = @k>() v, i = TopK(x, c) }"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Builds with the fake, and returns what was asked of it."""
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "load", lambda trt, path: trt.note("plugins", path))

    def make(trt, text=GRAPH, **settings):
        trt.engine = trt.engine or Engine(trt)
        if not hasattr(trt.engine, "create_engine_inspector"):
            trt.engine = Engine(trt)
        graph = save_graph(tmp_path / "part.onnx", text)
        chosen = Settings(**settings).chosen()
        build_plan("tensorrt", str(graph), str(tmp_path / "part.plan"), [], ["sm90"], chosen)
        return trt

    return make


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 2), ("10.16.1", 2), ("11.4.1", 0)])
def test_networks_are_strongly_typed_and_old_versions_are_told_so(build, fake, version, flags):
    assert build(fake(version)).asked("create_network") == [(flags,)]


@pytest.mark.parametrize(("version", "how"), [("10.3.0", "build"), ("11.4.1", "stream")])
def test_plans_are_streamed_where_the_builder_can(build, fake, tmp_path, version, how):
    assert build(fake(version)).asked(how) == [()]
    assert (tmp_path / "part.plan").read_bytes() == b"plan"


def test_an_export_sets_no_flag(build, fake):
    trt = build(fake())
    assert trt.asked("flag") == []
    assert trt.asked("profiling_verbosity") == [("DETAILED",)]
    assert not trt.asked("hardware_compatibility_level") + trt.asked("builder_optimization_level")
    assert not trt.asked("memory") + trt.asked("plugins") + trt.asked("plugins_to_serialize")


@pytest.mark.parametrize(
    ("setting", "flag"),
    [("refittable", "REFIT"), ("version_compatible", "VERSION_COMPATIBLE"), ("weight_streaming", "WEIGHT_STREAMING")],
)
def test_settings_are_flags(build, fake, setting, flag):
    assert build(fake(), **{setting: True}).asked("flag") == [(flag,)]


def test_level_and_workspace_are_passed_on(build, fake):
    trt = build(fake(), level=0, workspace_mib=512)
    assert trt.asked("builder_optimization_level") == [(0,)]
    assert trt.asked("memory") == [("WORKSPACE", 512 << 20)]


@pytest.mark.parametrize(("wish", "level"), [("ampere+", "AMPERE_PLUS"), ("same-cc", "SAME_COMPUTE_CAPABILITY")])
def test_hardware_levels(build, fake, wish, level):
    assert build(fake(), hardware=wish).asked("hardware_compatibility_level") == [(level,)]


def test_a_level_that_this_version_lacks_is_one_line(build, fake):
    old = fake("10.3.0", HardwareCompatibilityLevel=enum.IntEnum("Level", ["NONE", "AMPERE_PLUS"]))
    with pytest.raises(UserError, match=r"tensorrt 10.3.0 cannot build with --hardware-compatible same-cc: update it"):
        build(old, hardware="same-cc")
    assert not old.asked("build")


def test_a_plugin_is_loaded_and_preferred_to_functions(build, fake):
    trt = build(fake(), CALL, plugin="a.so")
    assert trt.asked("plugins") == [("a.so",)]
    assert trt.asked("parser") == [("ENABLE_PLUGIN_OVERRIDE",)]
    assert len(trt.asked("parse_from_file")) == 1
    assert not trt.asked("plugins_to_serialize")


def test_a_plan_that_lasts_takes_its_plugins_along(build, fake):
    assert build(fake(), CALL, plugin="a.so", version_compatible=True).asked("plugins_to_serialize") == [(["a.so"],)]


def test_old_parsers_get_no_functions_to_prefer(build, fake):
    nothing = enum.IntEnum("Parser", ["NATIVE_INSTANCENORM"])
    trt = build(fake("10.3.0", OnnxParserFlag=nothing), CALL, plugin="a.so")
    ((data, path),) = trt.asked("parse")
    model = onnx.load_from_string(data)
    assert path.endswith("part.onnx")  # where the weights are
    assert [node.op_type for node in model.graph.node] == ["Select"]
    assert not model.functions
    later = build(fake("10.9.0", OnnxParserFlag=nothing), CALL, plugin="a.so")
    assert not later.asked("parse") + later.asked("parser")
    assert not build(fake("10.3.0", OnnxParserFlag=nothing), CALL).asked("parse")


def test_the_inspector_tells_the_layers(build, fake, tmp_path):
    build(fake())
    assert '"name": "only"' in (tmp_path / "part.layers.json").read_text()


def test_a_failed_build_is_its_first_error_and_leaves_nothing(build, fake, tmp_path):
    broken = fake(plan=None, error="IBuilder::x: Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
    with pytest.raises(UserError, match=r"^Requested size was 9 bytes: lower --max-batch.* --weight-streaming$"):
        build(broken)
    assert [file.name for file in tmp_path.iterdir()] == ["part.onnx"]


def test_what_was_measured_is_kept_for_the_next_build(build, fake, tmp_path):
    assert build(fake()).asked("set_timing_cache") == [(b"", False)]
    (file,) = (tmp_path / "cache" / "timing").iterdir()
    assert file.name == "tensorrt-11.4.1-sm90-NVIDIA-H200.cache"
    assert build(fake()).asked("set_timing_cache") == [(b"+new|", False)]
