import enum
import re
from types import SimpleNamespace

import pytest

from engines.backends import trt, trt_rtx
from engines.errors import UserError
from engines.trt import fits

PORTABLE = "portable, Ampere and later"


@pytest.fixture
def here(monkeypatch, cuda):
    """A machine with a GPU and the runtimes."""
    known = enum.IntEnum("ComputeCapability", ["SM80", "SM86", "SM89", "SM120"])
    modules = {
        "tensorrt": SimpleNamespace(__name__="tensorrt", __version__="10.13.2.6"),
        "tensorrt_rtx": SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1.116", ComputeCapability=known),
    }
    monkeypatch.setattr(fits, "installed", lambda name: name in modules)
    monkeypatch.setattr(fits, "native", modules.get)

    def set_gpu(cc):
        cuda.found.major, cuda.found.minor = cc

    return set_gpu


def refuse(backend, line, **entry):
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        backend.fits(entry)


@pytest.mark.parametrize(
    ("cc", "gpu", "builder", "settings"),
    [
        ((9, 0), "sm90", "10.13.2.6", {}),
        ((9, 0), "sm90", "10.13.2.9", {}),
        ((9, 0), PORTABLE, "10.13.2", {"hardware": "ampere+"}),
        ((9, 0), "sm90", "10.3.0", {"version_compatible": True}),
    ],
)
def test_engines_that_fit(here, cc, gpu, builder, settings):
    here(cc)
    trt.fits({"builder": builder, "gpu": gpu, "settings": settings})


@pytest.mark.parametrize(("cc", "gpu"), [((8, 9), PORTABLE), ((8, 9), "sm86,sm89"), ((12, 0), PORTABLE)])
def test_rtx_engines_that_fit(here, cc, gpu):
    here(cc)
    trt_rtx.fits({"builder": "1.7.1.116", "gpu": gpu})


AGAIN = "build them here with tp-export build BUNDLE --target"


def test_another_gpu_is_refused_with_the_command_that_helps(here):
    here((8, 9))
    refuse(trt, f"these engines are for sm90, the GPU here is sm89: {AGAIN} trt", builder="10.13.2", gpu="sm90")
    line = f"these engines are for sm86, the GPU here is sm89: {AGAIN} trt-rtx:sm89"
    refuse(trt_rtx, line, builder="1.7.1", gpu="sm86")
    here((8, 0))  # not in TensorRT-RTX's own set, which it builds for if asked
    line = f"these engines are for {PORTABLE}, the GPU here is sm80: {AGAIN} trt-rtx:sm80"
    refuse(trt_rtx, line, builder="1.7.1", gpu=PORTABLE)
    here((7, 5))
    line = f"these engines are for {PORTABLE}, the GPU here is sm75: {AGAIN} trt"
    refuse(trt, line, builder="10.13.2", gpu=PORTABLE)


def test_rtx_on_a_gpu_that_it_does_not_know_is_refused(here):
    here((9, 0))
    line = f"tensorrt_rtx does not run on this GPU, which is sm90: {AGAIN} trt"
    refuse(trt_rtx, line, builder="1.7.1", gpu=PORTABLE)


@pytest.mark.parametrize(
    ("builder", "settings"),
    [
        ("10.14.0", {}),
        ("10.3.0", {}),
        ("10.14.0", {"version_compatible": True}),  # later than the runtime
        ("9.2.0", {"version_compatible": True}),
    ],
)
def test_another_version_is_refused(here, builder, settings):
    line = f"these engines are for tensorrt {builder}, here is 10.13.2.6: {AGAIN} trt"
    refuse(trt, line, builder=builder, gpu="sm90", settings=settings)


def test_no_gpu_is_refused(here, no_gpu):
    line = "engines for trt cannot run: no NVIDIA GPU here; use the target ort-cpu"
    refuse(trt, line, builder="10.13.2", gpu="sm90")


def test_no_runtime_is_refused(here, monkeypatch):
    monkeypatch.setattr(fits, "installed", lambda _: False)
    line = "engines for trt need tensorrt, which is not installed: pip install 'tp-export[tensorrt]'"
    refuse(trt, line, builder="10.13.2", gpu="sm90")
