"""Every method that cuts in the decoder, once, on families in turn: exported and compared with PyTorch in fp32.

`pytest -m matrix` compares them in fp16, too, and builds them for TensorRT-RTX.
"""

import pytest

from tests.exporter.matrix.test_pairs import DEEP, models, play

__all__ = ["models"]


@pytest.mark.parametrize("pair", DEEP, ids=str)
def test_a_covering_set_of_pairs(pair, models, tmp_path):
    outcome = play(pair, models, tmp_path, "ort-cpu")
    assert outcome.parity["verdict"] == "pass"
    assert outcome.contract["prefill"] != []
