import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.errors import UserError
from exporter import cache
from exporter.cache import cached, evict, source_hash


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TP_EXPORT_CACHE_GIB", raising=False)
    return tmp_path / "cache"


def maker(content=b"graph", calls=None):
    def make(folder):
        if calls is not None:
            calls.append(folder)
        (folder / "sub").mkdir()
        (folder / "sub/x.onnx").write_bytes(content)

    return make


def age(entry, days):
    then = time.time() - days * 86400
    os.utime(entry, (then, then))


def test_makes_once_for_a_kind_and_key(base):
    calls = []
    first, reused = cached("graph", {"keep": 64, "method": "none"}, maker(calls=calls))
    assert not reused
    again, reused = cached("graph", {"method": "none", "keep": 64}, maker(calls=calls))
    assert reused
    assert again == first
    assert first.is_relative_to(base)
    assert (first / "sub/x.onnx").read_bytes() == b"graph"
    assert len(calls) == 1
    assert cached("graph", {"method": "none", "keep": 65}, maker())[0] != first
    assert cached("plan", {"method": "none", "keep": 64}, maker())[0] != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda e: (e / "sub/x.onnx").write_bytes(b"grapH"),
        lambda e: (e / "sub/x.onnx").unlink(),
        lambda e: (e / "extra").write_bytes(b""),
        lambda e: (e / "sums.json").write_text("{"),
        lambda e: (e / "sums.json").unlink(),
    ],
)
def test_a_damaged_entry_is_made_anew(damage):
    entry, _ = cached("graph", {}, maker())
    damage(entry)
    again, reused = cached("graph", {}, maker())
    assert (again, reused) == (entry, False)
    assert (entry / "sub/x.onnx").read_bytes() == b"graph"
    assert not (entry / "extra").exists()
    assert cached("graph", {}, maker())[1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_entry(base, error):
    def fail(folder):
        (folder / "half").write_bytes(b"x")
        raise error

    with pytest.raises(error):
        cached("graph", {}, fail)
    assert list((base / "parts").iterdir()) == []


def test_a_full_disk_is_one_line():
    def fill_up(folder):
        Path("/dev/full").write_bytes(b"x")

    with pytest.raises(UserError, match="no space left"):
        cached("graph", {}, fill_up)


def test_two_processes_may_make_the_same_entry(base):
    code = (
        "import sys, time\nfrom exporter.cache import cached\n"
        "def make(folder):\n (folder / 'x').write_bytes(b'x' * 100000); time.sleep(0.5)\n"
        "entry, _ = cached('graph', {}, make)\nassert (entry / 'x').stat().st_size == 100000\n"
    )
    runs = [subprocess.Popen([sys.executable, "-P", "-c", code]) for _ in range(3)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    assert cached("graph", {}, maker())[1]
    assert [p.name for p in (base / "parts").iterdir() if p.name.startswith(".new-")] == []


def test_an_entry_that_another_process_finished_first_stays():
    def overtaken(folder):
        first.append(cached("graph", {}, maker())[0].stat().st_ino)
        maker()(folder)

    first = []
    entry, reused = cached("graph", {}, overtaken)
    assert not reused
    assert [entry.stat().st_ino] == first


def test_the_least_recently_used_go_first(monkeypatch):
    entries = [cached("graph", {"n": n}, maker(bytes(1000)))[0] for n in range(3)]
    for entry, days in zip(entries, (3, 5, 4), strict=True):
        age(entry, days)
    cached("graph", {"n": 1}, maker())  # using the oldest makes it the newest
    monkeypatch.setenv("TP_EXPORT_CACHE_GIB", str(2 * cache.size(entries[0]) / 2**30))
    evict()
    assert [entry.exists() for entry in entries] == [True, True, False]


def test_entries_in_use_survive_a_cap_of_nothing(monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE_GIB", "0")
    old, _ = cached("graph", {"n": 1}, maker())
    age(old, 1)
    fresh, _ = cached("graph", {"n": 2}, maker())
    kept, _ = cached("graph", {"n": 3}, maker())
    assert [entry.exists() for entry in (old, fresh, kept)] == [False, True, True]


def test_abandoned_work_is_removed(base):
    entry, _ = cached("graph", {}, maker())
    killed = base / "parts/.new-killed"
    killed.mkdir()
    code = (
        "import sys\nfrom exporter.cache import cached\n"
        "cached('graph', {'n': 1}, lambda _: (print('ready', flush=True), sys.stdin.read()))"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        (alive,) = {place for place in (base / "parts").glob(".new-*") if place != killed}
        cached("graph", {"n": 2}, maker())
        assert [place.exists() for place in (entry, alive, killed)] == [True, True, False]
        other.kill()
    cached("graph", {"n": 3}, maker())
    assert not alive.exists()


def test_a_cap_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE_GIB", "much")
    with pytest.raises(UserError, match="TP_EXPORT_CACHE_GIB='much' is not a number"):
        cached("graph", {}, maker())


def test_the_place_can_be_chosen(monkeypatch):
    monkeypatch.delenv("TP_EXPORT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.base() == Path("/somewhere/tp-export")
    monkeypatch.setenv("TP_EXPORT_CACHE", "relative")
    assert cache.base() == Path.cwd() / "relative"


def test_the_source_hash_follows_the_code(tmp_path, monkeypatch):
    def fake(package):
        return tmp_path / package

    for package in ("exporter", "graph_passes", "engines"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1")
    real = source_hash()
    monkeypatch.setattr(cache, "files", fake)
    hashes = {real, source_hash.__wrapped__()}
    (tmp_path / "engines/a.py").write_text("x = 2")
    hashes.add(source_hash.__wrapped__())
    (tmp_path / "engines/a.py").rename(tmp_path / "engines/b.py")
    hashes.add(source_hash.__wrapped__())
    assert len(hashes) == 4
    (tmp_path / "engines/notes.txt").write_text("not code")
    assert source_hash.__wrapped__() in hashes


def test_the_source_hash_of_a_folder_follows_that_folder(tmp_path, monkeypatch):
    for file in ("engines/trt/a.py", "engines/b.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x = 1")
    monkeypatch.setattr(cache, "files", lambda package: tmp_path / package)
    found = source_hash.__wrapped__("engines/trt")
    (tmp_path / "engines/b.py").write_text("x = 2")
    assert source_hash.__wrapped__("engines/trt") == found
    (tmp_path / "engines/trt/a.py").write_text("x = 2")
    assert source_hash.__wrapped__("engines/trt") != found


def test_entries_may_lie_elsewhere_and_stay(base, tmp_path, monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE_GIB", "0")
    store = tmp_path / "store"
    first, _ = cached("graph", {"n": 1}, maker(), store)
    age(first, 1)
    cached("graph", {"n": 2}, maker(), store)
    assert cached("graph", {"n": 1}, maker(), store) == (first, True)
    assert first.is_relative_to(store)
    assert not (base / "parts").exists()
    assert cache.sha256_of(first, "sub/x.onnx") == hashlib.sha256(b"graph").hexdigest()
