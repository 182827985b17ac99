import pytest

from engines.errors import UserError
from engines.last_words import last_line, understood


def test_the_last_line_prefers_trouble_and_drops_control_characters(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"first\n\x1b[31mERROR: bad node\x07\n\ncleaning up\n")
    assert last_line(log) == "[31mERROR: bad node"
    log.write_bytes(b"one\ntwo\n\n")
    assert last_line(log) == "two"
    log.write_bytes(b"")
    assert last_line(log) == ""


def test_a_child_that_was_killed_may_want_less(tmp_path):
    log = tmp_path / "log"
    log.write_text("building\n")
    with pytest.raises(
        UserError, match=r"^x failed: the child process died of SIGKILL, out of memory\? eat less: build"
    ):
        understood(-9, b"", "x failed", log, "eat less")
