from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from engines.backends import trt, trt_rtx
from engines.errors import UserError
from engines.trt import runtime
from engines.trt.cuda import numpy_type
from tests.engines.trt.fake_gpu import Engine


@pytest.fixture
def plan(fake, tmp_path):
    """Opens a plan of the fake engine."""

    def make(engine=None, *, low=False, **changes):
        module = fake()
        module.engine = engine or Engine(module)
        module.engine.__dict__.update(changes)
        (tmp_path / "a.plan").write_bytes(b"plan")
        return module, trt.load(tmp_path / "a.plan", low=low)

    return make


def rows(count):
    return {"x": np.arange(2 * count, dtype=np.float16).reshape(count, 2)}


def test_arrays_go_to_the_gpu_and_back(plan):
    _, run = plan()
    found = run(rows(2))
    assert found.keys() == {"y", "rows"}
    assert found["y"].dtype == np.float16
    assert np.array_equal(found["y"], [[0, 2], [4, 6]])


def test_an_output_whose_size_depends_on_the_data(plan):
    _, run = plan()
    found = run({"x": np.array([[0, 0], [1, 0]], np.float16)})
    assert found["rows"].dtype == np.int64
    assert found["rows"].tolist() == [1]


def test_the_profile_follows_the_shapes(plan):
    module, run = plan()
    for count in (1, 2, 4, 8, 1):
        run(rows(count))
    assert module.asked("profile") == [(1,), (0,)]


def test_memory_is_kept_between_calls_and_grows(plan, cuda):
    _, run = plan()
    run(rows(8))
    before = cuda.made
    for count in (8, 4, 1):
        assert np.array_equal(run(rows(count))["y"], 2 * rows(count)["x"])
    assert cuda.made == before
    assert len(cuda.held) == 3


def test_what_is_not_contiguous_is_copied_first(plan):
    _, run = plan()
    assert np.array_equal(run({"x": rows(2)["x"].T})["y"], [[0, 4], [2, 6]])


@pytest.mark.parametrize(
    ("feeds", "match"),
    [
        (rows(3), r"a\.plan: no profile covers 'x' of 3x2: it takes 1x2\.\.2x2 or 4x2\.\.8x2; build it with larger"),
        (rows(9), "no profile covers 'x' of 9x2"),
        ({"x": rows(2)["x"].astype(np.float32)}, r"input 'x' is float32 \[2, 2\], not float16"),
        ({"z": rows(2)["x"]}, "missing or unknown inputs: x, z"),
    ],
)
def test_what_the_plan_does_not_take_is_one_line(plan, feeds, match):
    _, run = plan()
    with pytest.raises(UserError, match=match):
        run(feeds)


def test_a_full_gpu_is_one_line(plan, cuda):
    _, run = plan()
    cuda.room = 10
    with pytest.raises(UserError, match="the GPU's memory is full: lower --max-batch"):
        run(rows(8))
    cuda.room = 10**6
    assert np.array_equal(run(rows(8))["y"], 2 * rows(8)["x"])


def test_weights_stay_with_the_host_where_the_plan_allows_it(plan):
    wanted = {"streamable_weights_size": 100, "get_weight_streaming_automatic_budget": lambda: 60}
    assert plan(**wanted, low=False)[0].engine.weight_streaming_budget_v2 == 60
    assert plan(**wanted, low=True)[0].engine.weight_streaming_budget_v2 == 0
    with pytest.raises(UserError, match=r"a\.plan holds all weights on the GPU: build it with --weight-streaming"):
        plan(low=True)


def test_a_plan_without_room_is_one_line(plan):
    with pytest.raises(UserError, match=r"a\.plan: the GPU has no room for it"):
        plan(create_execution_context=lambda: None)


def test_a_run_that_fails_is_one_line(plan, monkeypatch):
    _, run = plan()
    monkeypatch.setattr("tests.engines.trt.fake_gpu.Context.execute_async_v3", lambda *_: False)
    with pytest.raises(UserError, match=r"a\.plan: the run failed"):
        run(rows(2))


def test_plugins_beside_the_plan_are_loaded_first(plan, tmp_path, monkeypatch):
    monkeypatch.setattr("plugins.library.load", lambda trt, path: trt.note("plugins", path))
    (tmp_path / runtime.LIBRARY).touch()
    module, _ = plan()
    assert module.calls[0] == ("plugins", tmp_path / runtime.LIBRARY)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("FLOAT", np.float32), ("HALF", np.float16), ("BF16", ml_dtypes.bfloat16), ("BOOL", bool), ("INT64", np.int64)],
)
def test_element_types(name, dtype):
    assert numpy_type(name) == dtype


def test_an_element_type_that_numpy_lacks_is_one_line():
    with pytest.raises(UserError, match="NumPy has no type for FP4"):
        numpy_type("FP4")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"garbage" * 100, r"x\.plan is no plan that tensorrt_rtx .* runs here: .*incompatible serialization version"),
        (b"", r"x\.plan is no plan that tensorrt_rtx .* runs here: "),
    ],
)
def test_the_real_runtime_refuses_what_is_no_plan(tmp_path, cuda, data, match):
    (tmp_path / "x.plan").write_bytes(data)
    with pytest.raises(UserError, match=match) as caught:
        trt_rtx.load(tmp_path / "x.plan")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; build it: tp-export build BUNDLE --target trt-rtx")


def test_without_a_gpu_nothing_is_opened(tmp_path, no_gpu):
    (tmp_path / "x.plan").write_bytes(b"plan")
    with pytest.raises(UserError, match=r"x\.plan cannot run: no NVIDIA GPU here; run the target ort-cpu instead"):
        trt_rtx.load(tmp_path / "x.plan")


def test_without_cuda_bindings_nothing_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("engines.trt.gpu.cuda_runtime", lambda: None)
    (tmp_path / "x.plan").write_bytes(b"plan")
    with pytest.raises(UserError, match="cuda-bindings, through which plans reach the GPU, is not installed"):
        trt_rtx.load(tmp_path / "x.plan")


def test_without_the_runtime_nothing_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "installed", lambda _: False)
    (tmp_path / "x.plan").write_bytes(b"plan")
    with pytest.raises(UserError, match=r"x\.plan needs tensorrt, which is not installed"):
        trt.load(tmp_path / "x.plan")


def test_shapes_that_the_runtime_reads_stay_with_the_host(plan):
    module, run = plan()
    run._engine.get_tensor_location = lambda _: module.TensorLocation.HOST
    assert np.array_equal(run(rows(2))["y"], [[0, 2], [4, 6]])


def test_a_cuda_error_is_one_line(plan, cuda, monkeypatch):
    _, run = plan()
    error = SimpleNamespace(name="cudaErrorIllegalAddress")
    monkeypatch.setattr(cuda, "cudaStreamSynchronize", lambda _: (error,))
    cuda.cudaGetErrorString = lambda _: (0, b"an illegal memory access")
    with pytest.raises(UserError, match="the GPU reports cudaErrorIllegalAddress: an illegal memory access"):
        run(rows(2))
