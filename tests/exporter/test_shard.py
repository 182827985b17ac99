import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engines.errors import UserError
from exporter.shard import LARGEST_HEADER, Tensor, read_header

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def test_finds_what_safetensors_wrote(path):
    arrays = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.arange(4),
        "scalar": np.array(7.0),
        "empty": np.zeros((0, 5), np.float32),
    }
    save_file(arrays, path, metadata={"format": "pt"})
    found = read_header(path)
    assert found.keys() == arrays.keys()
    assert found["a"] == Tensor("x.safetensors", "F16", (2, 3), found["a"].offset, 12)
    for name, array in load_file(path).items():
        raw = path.read_bytes()[found[name].offset :][: found[name].nbytes]
        assert raw == array.tobytes()
        assert found[name].shape == array.shape


@pytest.mark.parametrize("cut", [1, 5, 8])
def test_truncation_says_how_many_bytes_are_missing(path, cut):
    write(path, {"a": ONE}, bytes(8 - cut))
    with pytest.raises(UserError, match=f"x.safetensors is truncated: {cut} bytes are missing"):
        read_header(path)


def test_bytes_behind_the_last_tensor_are_refused(path):
    write(path, {"a": ONE}, bytes(11))
    with pytest.raises(UserError, match="has 3 bytes behind its last tensor"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"a": ONE | {"dtype": "F7"}}, "dtype 'F7'"),
        ({"a": ONE | {"dtype": ["F32"]}}, "dtype"),
        ({"a": ONE | {"shape": [-2]}}, "impossible shape"),
        ({"a": ONE | {"shape": [2.0]}}, "impossible shape"),
        ({"a": ONE | {"shape": [True, 2]}}, "impossible shape"),
        ({"a": ONE | {"shape": 2}}, "impossible shape"),
        ({"a": ONE | {"data_offsets": [0]}}, "impossible shape or offsets"),
        ({"a": ONE | {"data_offsets": [8, 0]}}, "has -8 bytes"),
        ({"a": ONE | {"shape": [3]}}, r"is F32 \[3\] but has 8 bytes"),
        ({"a": ONE, "b": ONE}, "tensor 'b' overlaps another"),
        ({"a": ONE | {"data_offsets": [8, 16]}}, "tensor 'a' overlaps another or leaves a gap"),
        ({"a": 7}, "dtype None"),
        ([], "not a JSON object"),
        (b"{", "not a JSON object"),
        (b"\xff\xff", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
    ],
)
def test_a_lying_header_is_refused(path, header, match):
    write(path, header, bytes(16))
    with pytest.raises(UserError, match=match) as caught:
        read_header(path)
    assert "\n" not in str(caught.value)
    assert "x.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [3, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(path, length):
    write(path, b"{}", length=length)
    with pytest.raises(UserError, match="truncated within its header"):
        read_header(path)


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_without_header_is_refused(path, size):
    path.write_bytes(bytes(size))
    with pytest.raises(UserError, match="no safetensors file"):
        read_header(path)


def test_a_huge_header_is_not_read(path):
    write(path, b"{}", length=LARGEST_HEADER + 1)
    os.truncate(path, LARGEST_HEADER + 100)
    with pytest.raises(UserError, match="no safetensors file or is truncated"):
        read_header(path)
