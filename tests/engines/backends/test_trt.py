import pytest

from engines.backends import trt
from engines.errors import UserError
from engines.registry import engine
from engines.settings import Settings
from engines.trt import gpu
from tests.engines.trt.fake_gpu import Cuda


@pytest.fixture
def machine(monkeypatch):
    def make(cuda, *, package=True):
        monkeypatch.setattr(gpu, "cuda_runtime", lambda: cuda)
        monkeypatch.setattr(trt, "installed", lambda _: package)

    return make


def test_it_is_a_target_that_honours_all_settings():
    assert engine("trt") is trt
    assert trt.settings == set(vars(Settings()))


def test_it_wants_the_package_and_a_gpu(machine):
    machine(Cuda())
    assert trt.available() is None
    assert trt.at_hand() == ("sm90",)
    machine(Cuda(count=0))
    assert trt.available() == "no NVIDIA GPU here: build on the machine that will run it, or use trt-rtx"
    assert trt.at_hand() == ()
    machine(Cuda(), package=False)
    assert trt.available() == "tensorrt is not installed"
    assert trt.install == "pip install 'tp-export[tensorrt]'"
    machine(None)
    assert trt.available().startswith("cuda-bindings, through which plans reach the GPU, is not installed")


def test_the_gpu_in_words(machine):
    machine(Cuda(cc=(12, 0), name=b"NVIDIA GeForce RTX 5090"))
    assert gpu.gpu() == "sm120 NVIDIA GeForce RTX 5090"
    machine(Cuda(count=0))
    assert gpu.gpu() is None


def test_it_builds_for_the_gpu_at_hand_only(machine):
    machine(Cuda(cc=(8, 7)))
    trt.check(())
    trt.check(("sm87",))
    line = "target trt:sm89: the GPU here is sm87; build on a machine with sm89, or use trt-rtx:sm89"
    with pytest.raises(UserError, match=f"^{line}$"):
        trt.check(("sm89",))
    machine(Cuda(count=0))
    with pytest.raises(UserError, match="target trt:sm89: there is no NVIDIA GPU here; build on a machine with sm89"):
        trt.check(("sm89",))


def test_precision_keeps_the_checkpoints_16_bit_type():
    assert [trt.dtype(d) for d in ("fp32", "fp16", "bf16")] == ["fp16", "fp16", "bf16"]


def test_its_graphs_have_the_form_that_the_installed_version_reads(monkeypatch):
    monkeypatch.setattr(trt, "version", lambda: "11.4.1.8")
    assert (trt.legal("fp32"), trt.legal("fp16")) == (("explicit_attention",), ())
    monkeypatch.setattr(trt, "version", lambda: "10.3.0")
    assert "opset_20" in trt.legal("fp16")
