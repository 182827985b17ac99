import sys

import pytest

from engines.trt import gpu
from tests.engines.trt.fake_gpu import Cuda
from tests.engines.trt.fake_tensorrt import Fake


@pytest.fixture
def cuda(monkeypatch):
    """A GPU, as it seems."""
    made = Cuda()
    monkeypatch.setattr(gpu, "cuda_runtime", lambda: made)
    monkeypatch.setattr("engines.trt.cuda.cuda_runtime", lambda: made)
    return made


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without a GPU, whichever this is."""
    monkeypatch.setattr(gpu, "cuda_runtime", lambda: Cuda(count=0))


@pytest.fixture
def fake(monkeypatch, cuda):
    """TensorRT and a GPU, as it seems; call it for another version."""

    def make(version="11.4.1", **changes):
        found = Fake(version, **changes)
        monkeypatch.setitem(sys.modules, "tensorrt", found)
        monkeypatch.setattr("engines.trt.native.find_spec", lambda _: True)
        return found

    return make
