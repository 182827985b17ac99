"""Some of the methods that cut in the decoder, on families in turn: exported and compared with PyTorch in fp32.

`pytest -m matrix` plays all of them, in fp16, too, and builds them for TensorRT-RTX.
"""

import pytest

from tests.exporter.matrix.test_pairs import DEEP, models, play

SOME = ("a2sf", "fastv", "sparsevlm", "spatten", "todre-stage2")

__all__ = ["models"]


@pytest.mark.parametrize("pair", [pair for pair in DEEP if pair.method in SOME], ids=str)
def test_some_pairs(pair, models, tmp_path):
    outcome = play(pair, models, tmp_path, "ort-cpu")
    assert outcome.parity["verdict"] == "pass"
    assert outcome.contract["prefill"] != []
