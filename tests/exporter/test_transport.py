import hashlib
import os

import pytest

from engines.bundle import hash_file
from engines.errors import UserError
from exporter import checkpoint, disk, transport
from exporter.checkpoint import Checkpoint
from exporter.transport import bring

BYTES = os.urandom(3 * 1000 + 7)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disk, "BLOCK", 1000)  # several blocks


@pytest.fixture
def opened(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(BYTES)
    return Checkpoint(folder, {}, {}, ["a.safetensors"])


@pytest.fixture
def target(tmp_path):
    return tmp_path / "a.safetensors"


@pytest.fixture
def no_reflinks(monkeypatch):
    monkeypatch.setattr(transport, "share", lambda *_: False)


@pytest.mark.usefixtures("no_reflinks")
def test_a_copy_is_hashed_on_its_way_and_never_read_again(opened, target, monkeypatch):
    heard = []
    assert bring(opened, "a.safetensors", target, "copy", heard.append) == "copied"
    monkeypatch.setattr(checkpoint, "hash_file", lambda _: pytest.fail("read again"))
    assert opened.content_hash("a.safetensors") == hashlib.sha256(BYTES).hexdigest()
    assert target.read_bytes() == BYTES
    assert heard == [1000, 2000, 3000, 3007]


@pytest.mark.usefixtures("no_reflinks")
def test_the_kernel_copies_what_was_hashed_before(opened, target, monkeypatch):
    expected = opened.content_hash("a.safetensors")
    monkeypatch.setattr(transport, "stream", lambda *_: pytest.fail("through this process"))
    assert bring(opened, "a.safetensors", target, "copy", lambda _: None) == "copied"
    assert hash_file(target) == expected


@pytest.mark.usefixtures("no_reflinks")
def test_without_the_kernel_s_help_bytes_are_streamed(opened, target, monkeypatch):
    def refuse(*_):
        raise OSError(38, "not implemented")

    opened.content_hash("a.safetensors")
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    assert bring(opened, "a.safetensors", target, "copy", lambda _: None) == "copied"
    assert target.read_bytes() == BYTES


def test_shared_blocks_move_nothing(opened, target, monkeypatch):
    monkeypatch.setattr(transport, "share", lambda _, copy: bool(copy.write(BYTES)) or True)
    monkeypatch.setattr(transport, "stream", lambda *_: pytest.fail("copied"))
    assert bring(opened, "a.safetensors", target, "copy", lambda _: None) == "shared blocks"


def test_a_link_is_the_same_file(opened, target):
    assert bring(opened, "a.safetensors", target, "link", lambda _: None) == "linked"
    assert target.samefile(opened.dir / "a.safetensors")
    assert target.stat().st_nlink == 2


@pytest.mark.parametrize(("number", "reason"), [(18, "different file systems"), (1, "forbids hard links to it")])
def test_what_cannot_be_linked_is_one_line(opened, target, monkeypatch, number, reason):
    def refuse(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UserError, match=f"--weights link: .*{reason}; copy it") as caught:
        bring(opened, "a.safetensors", target, "link", lambda _: None)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_reflinks")
def test_a_file_that_changes_meanwhile_is_refused_and_its_hash_forgotten(opened, target):
    source = opened.dir / "a.safetensors"

    def meddle(done):
        if done == 1000:
            with source.open("ab") as file:
                file.write(b"more")

    with pytest.raises(UserError, match="was changed while it was copied"):
        bring(opened, "a.safetensors", target, "copy", meddle)
    assert opened.known_hash("a.safetensors") is None
