"""A library that is missing, broken, foreign or too new is one line; and how CMake asks for what it needs."""

import ctypes
import hashlib
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from plugins import library
from tests.documents import ROOT

SOUND = """
int tp_interface(void) { return 1; }
int tp_cuda(void) { return 12060; }
const char* tp_gpus(void) { return "87-real"; }
const char* tp_complaint(void) { return "tp.export::Select: no"; }
void* getCreators(int* many) { *many = 0; return 0; }
void setLoggerFinder(void* finder) { (void)finder; }
"""


@pytest.fixture
def built(tmp_path):
    """Builds a library of C code under our name."""

    def build(code, *words):
        file = tmp_path / library.NAME
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(file), *words]
        subprocess.run(command, input=code, text=True, check=True)
        return file

    return build


def refused(call, *args):
    with pytest.raises(library.LibraryError) as error:
        call(*args)
    said = str(error.value)
    assert "\n" not in said
    return said


def test_a_library_says_how_it_was_built(built, monkeypatch):
    file = built(SOUND)
    assert library.inspect(file) == library.Built((12, 6), "87-real")
    assert library.inspect(file.parent) == library.inspect(file)
    monkeypatch.setenv(library.PLACE, str(file))
    assert library.find() == file


def test_what_a_plugin_refused(built):
    assert library.complaint(built(SOUND)) == "tp.export::Select: no"


def test_its_hash_is_that_of_the_file(built):
    file = built(SOUND)
    assert library.sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_missing(tmp_path, monkeypatch):
    monkeypatch.delenv(library.PLACE, raising=False)
    assert refused(library.find, tmp_path).startswith(f"{tmp_path / library.NAME}: there is no such plugin library")
    assert "docs/plugin.md" in refused(library.find, tmp_path / "other.so")
    assert f"--plugin or ${library.PLACE}" in refused(library.find)


def test_no_library(tmp_path):
    file = tmp_path / "text.so"
    file.write_text("no library")
    assert "is no shared library" in refused(library.inspect, file)
    file.write_bytes(b"")
    assert "is no shared library" in refused(library.inspect, file)


def test_for_another_processor(built):
    file = built(SOUND)
    raw = bytearray(file.read_bytes())
    raw[18] = 183 if raw[18] != 183 else 62  # the machine: AArch64, or x86-64
    file.write_bytes(raw)
    assert "another kind of processor" in refused(library.inspect, file)


def test_cut_off(built):
    file = built(SOUND)
    whole = file.read_bytes()
    for length in (900, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "is cut off" in refused(library.inspect, file)
    file.write_bytes(whole[:40])
    assert "is no shared library" in refused(library.inspect, file)


def test_another_s(built):
    assert "lacks getCreators" in refused(library.inspect, built("int other(void) { return 0; }"))


def test_another_interface(built):
    assert "has interface 2" in refused(library.inspect, built(SOUND.replace("return 1;", "return 2;")))


def test_a_cuda_runtime_that_is_not_here(built, tmp_path):
    """A library that was not built as ours says, and needs what this machine lacks."""
    (tmp_path / "away").mkdir()
    needed = built("int away(void) { return 0; }", "-Wl,-soname,libcudart.so.99")
    needed = needed.rename(tmp_path / "away" / "libcudart.so.99")
    file = built("int away(void); int use(void) { return away(); }" + SOUND, "-x", "none", str(needed))
    assert "cannot be loaded: libcudart.so.99" in refused(library.inspect, file)


def test_built_with_a_newer_cuda_than_the_driver_knows(built, monkeypatch):
    monkeypatch.setattr(library, "_driver", lambda: (11, 8))
    said = refused(library.inspect, built(SOUND))
    assert "built with CUDA 12.6, and the GPU driver here knows CUDA 11.8" in said
    monkeypatch.setattr(library, "_driver", lambda: (12, 2))  # the same major version will do
    assert library.inspect(built(SOUND)).cuda == (12, 6)


def test_the_driver_is_asked(monkeypatch):
    class Driver:
        @staticmethod
        def cuDriverGetVersion(number):  # noqa: N802 (its name)
            ctypes.cast(number, ctypes.POINTER(ctypes.c_int))[0] = 12040
            return 0

    monkeypatch.setattr(library.ctypes, "CDLL", lambda _: Driver)
    assert library._driver() == (12, 4)


def registry(answer, *known):
    """TensorRT's module as far as loading needs it."""
    loaded = []
    creators = [SimpleNamespace(name=name, plugin_namespace="tp.export") for name in known]
    found = SimpleNamespace(all_creators=creators, load_library=lambda path: loaded.append(path) or answer)
    return SimpleNamespace(__name__="tensorrt", __version__="10.3.0", get_plugin_registry=lambda: found), loaded


def test_loading(built):
    file = built(SOUND)
    module, loaded = registry(object(), "Other")
    assert library.load(module, file) == file
    assert loaded == [str(file)]
    module, loaded = registry(object(), "Select")
    library.load(module, file)
    assert loaded == []


def test_tensorrt_refuses_it(built):
    module, _ = registry(None)
    assert "tensorrt 10.3.0 refuses it" in refused(library.load, module, built(SOUND))


def test_cmake_asks_for_the_headers_in_one_line(tmp_path):
    assert shutil.which("cmake"), "cmake is not on the PATH: pip install cmake, or apt-get install cmake"
    folder = tmp_path / "none"
    words = ["cmake", "-S", ROOT / "plugins", "-B", tmp_path / "build", f"-DTRT_INCLUDE_DIR={folder}"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if "TRT_INCLUDE_DIR" in line]
    assert line.strip().startswith("TensorRT's headers are missing: pass -DTRT_INCLUDE_DIR=DIR")
