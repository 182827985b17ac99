import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from engines.bundle import FORMAT, hash_file, open_bundle, verify
from engines.errors import UserError
from exporter import publish
from exporter.publish import check_target, place, seal, staging

CONTRACT = {key: {} for key in ("model", "limits", "parts", "engines")}
CONTRACT |= {key: [] for key in ("plan", "groups", "ran", "prefill", "states", "pictures")}
CONTRACT |= {"format": FORMAT, "positions": "keep", "warm_up": 0, "slot_positions": False, "kv": {}}


def fill(folder, version):
    """Writes a small bundle that knows its version."""
    (folder / "onnx").mkdir()
    (folder / "onnx/weights").write_bytes(str(version).encode() * 100_000)
    seal(folder, {**CONTRACT, "recipe": {"version": version}})


def stage(target, work, force=False):
    with staging(target, force=force) as tmp:
        work(tmp)


def fill_up(tmp):
    Path("/dev/full").write_bytes(b"x")


def make(target, version, force=False):
    stage(target, lambda tmp: fill(tmp, version), force)


def version(target):
    """The version of a bundle whose files are all as recorded."""
    bundle = open_bundle(target)
    verify(bundle)
    return bundle.contract["recipe"]["version"]


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "bundle"


def alone(target):
    return list(target.parent.iterdir()) == [target]


def test_publishes_beside_nothing(target):
    make(target, 1)
    assert version(target) == 1
    assert alone(target)


def test_staging_lies_beside_the_target(target):
    with staging(target, force=False) as tmp:
        assert tmp.parent == target.parent
        assert tmp.name == f".bundle.staging-{os.getpid()}"
        assert not target.exists()


def test_replacing_needs_force(target):
    make(target, 1)
    with pytest.raises(UserError, match="replace it with --force"):
        make(target, 2)
    assert version(target) == 1
    make(target, 2, force=True)
    assert version(target) == 2
    assert alone(target)


def test_replaces_where_names_cannot_be_swapped(target, monkeypatch):
    monkeypatch.setattr(publish, "exchange", Mock(return_value=False))
    make(target, 1)
    make(target, 2, force=True)
    assert version(target) == 2
    assert alone(target)


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_replaced(target, force):
    target.mkdir(parents=True)
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a bundle"):
        check_target(target, force=force)
    with pytest.raises(UserError, match="not a bundle"):
        make(target, 1, force=force)
    assert (target / "thesis.tex").read_text() == "years of work"


def test_a_link_to_a_bundle_is_not_replaced(target, tmp_path):
    make(target, 1)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(UserError, match="not a bundle"):
        make(link, 2, force=True)
    assert version(target) == 1


@pytest.mark.parametrize("name", [".", "/", "out/.."])
def test_targets_without_a_name_are_refused(name):
    with pytest.raises(UserError, match="cannot name a bundle"):
        check_target(Path(name), force=True)


def test_a_target_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a directory that you may write to"):
        check_target(tmp_path / "file" / "bundle", force=False)


def test_a_target_that_appears_meanwhile_is_kept(target):
    def late(tmp):
        fill(tmp, 1)
        target.mkdir()
        fill(target, 2)

    with pytest.raises(UserError, match="--force"):
        stage(target, late)
    assert version(target) == 2
    assert alone(target)


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_a_failure_leaves_the_old_bundle(target, error):
    make(target, 1)

    def fail(tmp):
        fill(tmp, 2)
        raise error

    with pytest.raises(type(error)):
        stage(target, fail, force=True)
    assert version(target) == 1
    assert alone(target)


def test_a_full_disk_is_one_line_and_changes_nothing(target):
    make(target, 1)
    with pytest.raises(UserError, match=r"no space left in .* GiB free"):
        stage(target, fill_up, force=True)
    assert version(target) == 1
    assert alone(target)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_publishing_is_one_line(target, monkeypatch, code):
    make(target, 1)

    def full(folder):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(publish, "sync_tree", full)
    with pytest.raises(UserError, match="no space left"):
        make(target, 2, force=True)
    assert version(target) == 1
    assert alone(target)


def test_an_interrupted_second_rename_brings_the_old_bundle_back(target, monkeypatch):
    make(target, 1)
    monkeypatch.setattr(publish, "exchange", Mock(return_value=False))
    rename = Path.rename

    def interrupted(self, to):
        if "staging" in self.name:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(target, 2, force=True)
    assert version(target) == 1
    assert alone(target)


KILLED = """
import os, signal, sys
from pathlib import Path
from exporter import publish

def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
def never(*args): return False
rename, exchange = Path.rename, publish.exchange
def die_on_staging(self, to): return die() if "staging" in self.name else rename(self, to)
def die_after_staging(self, to): rename(self, to); "staging" in self.name and die()
def swap_and_die(*names): exchange(*names); die()

patches = {
    "writing": {},
    "flushing": {"sync_tree": die},
    "swapping": {"exchange": swap_and_die},
    "deleting": {"sync": die},
    "between renames": {"exchange": never, "rename": die_on_staging},
    "after renames": {"exchange": never, "rename": die_after_staging},
}[sys.argv[2]]
for name, value in patches.items():
    setattr(Path if name == "rename" else publish, name, value)
with publish.staging(Path(sys.argv[1]), force=True) as tmp:
    (tmp / "onnx").mkdir()
    (tmp / "onnx/weights").write_bytes(b"2" * 100_000)
    sys.argv[2] == "writing" and die()
    publish.seal(tmp, CONTRACT)
"""


@pytest.mark.parametrize(
    ("moment", "left", "recovered"),
    [
        ("writing", 1, 1),
        ("flushing", 1, 1),
        ("swapping", 2, 2),
        ("deleting", 2, 2),
        ("between renames", None, 1),
        ("after renames", 2, 2),
    ],
)
def test_a_kill_leaves_the_old_bundle_or_the_new(target, moment, left, recovered):
    make(target, 1)
    code = f"CONTRACT = { ({**CONTRACT, 'recipe': {'version': 2}})!r}\n{KILLED}"
    run = subprocess.run([sys.executable, "-P", "-c", code, str(target), moment], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not alone(target) or moment == "deleting"
    assert (version(target) if target.exists() else None) == left
    check_target(target, force=True)
    assert version(target) == recovered
    assert alone(target)


def test_what_living_processes_stage_is_left_alone(target):
    make(target, 1)
    other = target.with_name(f".bundle.staging-{os.getppid()}")
    other.mkdir()
    check_target(target, force=True)
    assert other.is_dir()


def test_only_our_own_leftovers_are_removed(target):
    make(target, 1)
    mine = target.with_name(".bundle.staging-notes")
    mine.mkdir()
    check_target(target, force=True)
    assert mine.is_dir()


def test_seal_records_every_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"b")
    sealed = seal(tmp_path, {"format": FORMAT})
    assert list(sealed["files"]) == ["a/b"]
    assert sealed["files"]["a/b"]["sha256"] == hash_file(tmp_path / "a/b")
    assert json.loads((tmp_path / "bundle.json").read_text()) == sealed


def test_seal_refuses_links(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(AssertionError, match="plain files only"):
        seal(tmp_path, {"format": FORMAT})


def test_place_makes_a_file_of_its_own(tmp_path):
    blob = tmp_path / "blob"
    blob.write_bytes(os.urandom(3 << 20))
    source = tmp_path / "shard"
    source.symlink_to(blob)
    placed = tmp_path / "placed"
    place(source, placed)
    assert placed.read_bytes() == blob.read_bytes()
    assert not placed.is_symlink()
    assert placed.stat().st_nlink == 1
    assert placed.stat().st_ino != blob.stat().st_ino
    with pytest.raises(FileExistsError):
        place(source, placed)


def test_seal_reads_no_file_whose_record_is_known_and_true(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(b"numbers")
    (tmp_path / "changed").write_bytes(b"before")
    known = {name: publish.record(tmp_path / name, "a hash from its copy") for name in ("weights", "changed")}
    (tmp_path / "changed").write_bytes(b"afterwards")
    sealed = seal(tmp_path, {"format": FORMAT}, known)
    assert sealed["files"]["weights"] == known["weights"]
    assert sealed["files"]["changed"]["sha256"] == hashlib.sha256(b"afterwards").hexdigest()
