"""Places that cannot hold a bundle, disks that fill up, builders that die: what was there before survives."""

import errno
import shutil
import sys

import pytest

import engines.backends
from engines.bundle import open_bundle
from tests.exporter.mistakes import EXPORT, refused, run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with things of the user's, all of which are still there in the end, and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter").write_text("dear")
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "letter").read_text() == (tmp_path / "full/letter").read_text() == "dear"


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("name", ["letter", "empty", "full", "link", "dangling", "/dev/null"])
def test_what_is_no_bundle_is_left_alone(name, force):
    says = f"{name} exists and is not a bundle: remove it yourself, or choose another name"
    refused(*EXPORT, "-o", name, *force, says=says)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("letter/bundle", "letter is not a directory that you may write to"),
        ("letter/deep/bundle", "letter is not a directory that you may write to"),
        ("dangling/bundle", "cannot write dangling/bundle: File exists; choose another place with --output"),
        ("/proc/bundle", "cannot write /proc/bundle: "),
        ("/dev/null/bundle", "/dev/null is not a directory that you may write to"),
        ("a" * 255, "File name too long"),
        ("a/" * 3000, "File name too long"),
        (".", "'.' cannot name a bundle: give a new directory's name"),
        ("full/..", "cannot name a bundle"),
        ("/", "'/' cannot name a bundle"),
    ],
)
def test_places_that_cannot_be_written(path, says):
    refused(*EXPORT, "-o", path, says=says)


@pytest.mark.parametrize("place", ["letter", "letter/x", "/dev/null", "/proc/x"])
def test_caches_that_cannot_be_written(monkeypatch, place):
    monkeypatch.setenv("TP_EXPORT_CACHE", place)
    refused(*EXPORT, "-o", "bundle", says="; set TP_EXPORT_CACHE", where="cannot write the cache ")
    refused(*EXPORT, "-o", "bundle", "--model", "demo:llava-1.5", says="; set TP_EXPORT_CACHE", where="cannot write")


@pytest.mark.parametrize("gib", ["much", "nan", "-1"])
def test_a_cap_that_is_no_number(monkeypatch, gib, tmp_path_factory):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("TP_EXPORT_CACHE_GIB", gib)
    refused(*EXPORT, "-o", "bundle", says=f"TP_EXPORT_CACHE_GIB='{gib}' is not a number of GiB")


@pytest.mark.parametrize("what", ["exporter.furnish.place", "exporter.export.seal", "exporter.publish.sync_tree"])
def test_a_full_disk(monkeypatch, demo_bundle, what):
    def fill_up(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(what, fill_up)
    refused(*EXPORT, "-o", "bundle", says="make room and run again", where="no space left in ")


def test_a_full_cache(monkeypatch, tmp_path_factory):
    def fill_up(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TP_EXPORT_CACHE", str(cache))
    monkeypatch.setattr("exporter.build_parts.save", fill_up)
    refused(*EXPORT, "-o", "bundle", says="make room and run again", where=f"no space left in {cache}")
    assert not list((cache / "parts").glob(".new-*"))


@pytest.fixture
def old(demo_bundle, tmp_path_factory):
    """A bundle of the user's, outside the folder that must stay as it is."""
    return shutil.copytree(demo_bundle, tmp_path_factory.mktemp("old") / "bundle")


def test_a_bundle_is_replaced_by_force_only(old):
    refused(*EXPORT, "-o", old, says=f"{old} exists: choose another name, or replace it with --force")
    refused(*EXPORT, "-o", old, "--force", "--max-length", "5", says="--max-length 5")
    assert set(open_bundle(old).contract["engines"]) == {"ort-cpu", "ov-cpu", "trt-rtx"}
    assert run(*EXPORT, "-o", old, "--force")[::2] == (0, "")
    assert set(open_bundle(old).contract["engines"]) == {"ort-cpu"}
    assert [path.name for path in old.parent.iterdir()] == ["bundle"]


DOOMED = """
from engines.child import run_in_child
name, extension, install = "doomed", ".plan", ""
def available(): return None
def version(): return "1"
def dtype(checkpoint): return "fp32"
def check(options): pass
def build(job):
    job.out.write_bytes(b"half")
    return run_in_child({function!r}, {kwargs!r}, f"building '{{job.part}}' for doomed", job.log)
"""


@pytest.mark.parametrize(
    ("function", "kwargs", "says"),
    [
        ("os:abort", {}, "the child process died of SIGABRT"),
        ("ctypes:string_at", {"ptr": 0}, "the child process died of SIGSEGV"),
        ("os:_exit", {"status": 0}, "the child process left no answer"),
        ("sys:exit", {}, "the child process left no answer"),
        ("json:loads", {"s": "{"}, "the child process exited with 1: json.decoder.JSONDecodeError"),
        ("json:loads", {"s": "[]"}, "the child process answered nonsense: []"),
    ],
)
def test_a_builder_that_dies(monkeypatch, tmp_path_factory, old, function, kwargs, says):
    backends = tmp_path_factory.mktemp("backends")
    (backends / "doomed.py").write_text(DOOMED.format(function=function, kwargs=kwargs))
    monkeypatch.setattr(engines.backends, "__path__", [*engines.backends.__path__, str(backends)])
    monkeypatch.delitem(sys.modules, "engines.backends.doomed", raising=False)
    words = (*EXPORT[:4], "--target", "doomed", "-o", old, "--force")
    refused(*words, says=says, where="building 'vision' for doomed failed: ")
    assert set(open_bundle(old).contract["engines"]) == {"ort-cpu", "ov-cpu", "trt-rtx"}
    assert [path.name for path in old.parent.iterdir()] == ["bundle"]
