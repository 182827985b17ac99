"""Some of the methods that cut in the decoder, on families in turn: exported and compared with PyTorch in fp32.

`pytest -m matrix` plays all of them, in fp16, too, and builds them for TensorRT-RTX.
"""

import pytest

from tests.exporter.matrix.test_pairs import DEEP, models, play

__all__ = ["models"]


@pytest.mark.parametrize("pair", DEEP[::4], ids=str)
def test_every_fourth_pair(pair, models, tmp_path):
    outcome = play(pair, models, tmp_path, "ort-cpu")
    assert outcome.parity["verdict"] == "pass"
    assert outcome.contract["prefill"] != []
