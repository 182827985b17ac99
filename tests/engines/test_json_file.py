import os

import pytest

from engines.errors import UserError
from engines.json_file import DEEPEST, LARGEST, read_json, read_object


def nested(levels):
    return b"[" * levels + b"]" * levels


def test_reads_what_is_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes('{"a": ["é", 1e3, null]}'.encode())
    assert read_object(path) == {"a": ["é", 1000.0, None]}
    path.write_bytes(nested(DEEPEST))
    read_json(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"9" * 10_000, "is not valid JSON"),
        (nested(100_000), "is not valid JSON"),
        (nested(DEEPEST + 1), "is nested more than 64 levels deep"),
        (b"[]", "is not a JSON object"),
        (b" " * (LARGEST + 1), "is too large"),
    ],
)
def test_what_is_no_object(tmp_path, content, says):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_object(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "gone", tmp_path, tmp_path / "fifo"):
        with pytest.raises(UserError, match=f"has no file {path.name}"):
            read_json(path)
