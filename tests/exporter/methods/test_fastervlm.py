"""FasterVLM against vectors recorded from the authors' own code, in PyTorch and as an exported graph."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.fastervlm import FasterVLM
from exporter.reducer import Grid, Shape, Stage
from graph_passes.pipeline import optimise

CASES = sorted((Path(__file__).parents[2] / "golden" / "fastervlm").glob("case*.npz"))


def taps(rows, grid=(12, 12)):
    """Taps over [CLS] rows `[B,H,n]` of layer 0."""
    batch, _, length = rows.shape
    seen = {0: Seen(attention=rows[:, :, None])}
    return EagerTaps((1,), length - 1, length, seen, Shape(length - 1, Grid(*grid)), batch=batch)


def select(rows, keep):
    return FasterVLM().select(taps(rows), Stage("tower", 0, keep=keep))


class Selecting(torch.nn.Module):
    """The reducer alone, as a module to export."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def forward(self, rows):
        return select(rows, self.keep).indices[:, 0]


def load(path):
    with np.load(path, allow_pickle=False) as stored:
        case = dict(stored)
    return case, torch.from_numpy(case["attn_cls_rows"][int(case["select_layer"])]), int(case["keep"])


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_in_pytorch(path):
    case, rows, keep = load(path)
    selection = select(rows, keep)
    assert np.array_equal(selection.indices[:, 0].numpy(), case["kept_indices"])
    np.testing.assert_allclose(selection.scores[:, 0].numpy(), case["score"], rtol=1e-6)
    features = torch.from_numpy(case["hidden_sel"])[:, 1:]
    kept = features.gather(1, selection.indices[:, 0, :, None].expand(-1, -1, features.shape[-1]))
    assert np.array_equal(kept.numpy(), case["kept_features"])


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_as_a_graph(path, tmp_path):
    case, rows, keep = load(path)
    program = torch.export.export(Selecting(keep), (rows,), strict=False)
    model = torch.onnx.export(program, (), dynamo=True, opset_version=23, optimize=False, verbose=False).model
    assert optimise(model)["lower_select"].rewrites == 1
    import onnx_ir

    onnx_ir.save(model, tmp_path / "select.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "select.onnx", providers=["CPUExecutionProvider"])
    (kept,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    assert np.array_equal(kept, case["kept_indices"])


def test_there_are_golden_cases():
    assert len(CASES) == 2


def test_ties_go_to_the_lower_index():
    rows = torch.full((1, 2, 145), 0.5)
    assert select(rows, 5).indices.flatten().tolist() == [0, 1, 2, 3, 4]
    rows[0, :, 1 + 140] = 0.6
    assert select(rows, 3).indices.flatten().tolist() == [0, 1, 140]


@pytest.mark.parametrize("keep", [1, 72, 143, 144])
def test_every_budget_keeps_that_many_in_order(keep):
    rows = torch.rand(2, 3, 145, generator=torch.Generator().manual_seed(1))
    kept = select(rows, keep).indices
    assert kept.shape == (2, 1, keep)
    assert (kept.diff(dim=-1) > 0).all()


def test_batch_equals_one_at_a_time():
    rows = torch.rand(3, 2, 145, generator=torch.Generator().manual_seed(2))
    together = select(rows, 20).indices
    assert torch.equal(together, torch.cat([select(row[None], 20).indices for row in rows]))


def test_plan_cuts_once_behind_the_layer_that_is_read():
    shape = Shape(576, Grid(24, 24), tower_layers=24, tower_last=22, decoder_layers=32, has_cls=True)
    assert FasterVLM().plan(shape, Budget("11%")) == (Stage("tower", 22, keep=63),)
    with pytest.raises(UserError, match="577"):
        FasterVLM().plan(shape, Budget("577"))
