"""Towers that others export, cut and compared with pruning by hand."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exporter.budget import Budget
from exporter.graft.graft import finish, prepare, put
from exporter.graft.outcome import graft
from exporter.graft.planning import plan
from exporter.registry import method
from tests.exporter.graft.towers import DATA, by_hand, export, tower

PICTURES = np.random.default_rng(3).standard_normal((3, 3, 56, 56)).astype(np.float32)


def cut(path, keep, name="fastervlm", layer=None, **params):
    """The graph with a cut, without proof; and its plan."""
    prepared, reducer = prepare(path), method(name, params)
    planned = plan(prepared.tower, reducer, name, Budget(keep), layer)
    made = put(prepared, reducer, name, planned.stages, planned.shape)
    finish(made.model)
    return made.model, planned


def run(model, pictures=PICTURES):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pictures})


@pytest.mark.parametrize(
    ("kind", "attention", "opset", "how", "layer"),
    [
        ("clip", "sdpa", 18, {}, None),
        ("clip", "eager", 20, {}, 2),
        ("clip", "sdpa", 23, {}, 1),
        ("clip", "eager", 18, {"legacy": True}, None),
        ("vit", "sdpa", 20, {"batch": 3}, None),
        ("vit", "eager", 23, {}, None),
        ("dinov2", "sdpa", 18, {}, 1),
    ],
)
def test_a_cut_tower_is_pruning_by_hand(tmp_path, kind, attention, opset, how, layer):
    model = tower(kind, attention)
    path = export(model, tmp_path / "m.onnx", opset, **how)
    made, planned = cut(path, "6", layer=layer)
    *answers, kept = run(made)
    rows, wanted = by_hand(kind, model, torch.from_numpy(PICTURES), planned.stages[0].layer, 6)
    assert kept.dtype == np.int64
    assert kept.tolist() == rows.tolist()
    for found, expected in zip(answers, wanted, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    before = ir.load(path)
    assert made.opset_imports == {"": opset}
    # none is written out; the last may be one for each selection of its rows
    assert sum(n.op_type == "Attention" for n in made.graph) >= sum(n.op_type == "Attention" for n in before.graph)


def test_a_tower_that_ends_in_its_stream_is_cut_at_its_end(tmp_path):
    model = tower("clip", "sdpa")
    made, planned = cut(export(model, tmp_path / "m.onnx", 20, bare=True), "25%")
    assert [stage.layer for stage in planned.stages] == [2]
    rows, kept = run(made)
    wanted, _ = by_hand("clip", model, torch.from_numpy(PICTURES), 2, 4)
    assert kept.tolist() == wanted.tolist()
    full = model(torch.from_numpy(PICTURES), output_hidden_states=True).hidden_states[-2].detach().numpy()
    np.testing.assert_allclose(rows[:, 1:], np.take_along_axis(full[:, 1:], kept[..., None], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_token_fused", "vit_avg_plain"])
def test_a_timm_classifier_is_cut_and_proven(tmp_path, name):
    outcome = graft(DATA / f"{name}.onnx", tmp_path / "cut.onnx", "fastervlm", "50%", None, {}, force=False)
    assert outcome.good
    assert [each.good for each in outcome.findings] == [True] * 4
    assert outcome.after.flops < outcome.before.flops
    (kept,) = [v for v in onnx.load(tmp_path / "cut.onnx").graph.output if v.name == "kept_indices"]
    assert kept.type.tensor_type.shape.dim[1].dim_value == 8


def test_merging_and_several_cuts_are_proven(tmp_path):
    source = DATA / "vit_token_plain.onnx"
    for name in ("visionzip", "zero-tprune"):
        outcome = graft(source, tmp_path / f"{name}.onnx", name, "8", 1 if name == "visionzip" else 2, {}, force=False)
        assert outcome.good, outcome.findings
    assert len(outcome.plan.stages) > 1


def test_without_cls_the_methods_own_rule_for_that_holds(tmp_path):
    model = tower("siglip", "sdpa")
    path = export(model, tmp_path / "m.onnx", 18)
    rows, pooled, kept = run(cut(path, "6", layer=1)[0])
    assert (rows.shape, pooled.shape, kept.shape) == ((3, 6, 32), (3, 32), (3, 6))
    model.set_attn_implementation("eager")
    weights = model(torch.from_numpy(PICTURES), output_attentions=True).attentions[1].mean((1, 2))
    wanted = weights.argsort(dim=-1, descending=True, stable=True)[:, :6].sort(-1).values
    assert kept.tolist() == wanted.tolist()
