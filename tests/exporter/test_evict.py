"""The part between two turns: its ports, and what it computes at any size."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exporter.attention import register
from exporter.budget import Budget
from exporter.caches import Group
from exporter.methods.spatten import SpAtten
from exporter.models.llava import Llava
from exporter.parts.base import Job
from exporter.parts.evict import CacheTaps, EvictPart, left
from exporter.trace import fake_model, trace
from graph_passes.pipeline import optimise
from tests.exporter.tiny_llava import tiny_config

REDUCER, KEEP = SpAtten(start=1, coming=3), 8


@pytest.fixture(scope="module")
def traced():
    family, mode = fake_model(Llava, tiny_config(), "fp32", register())
    shape, budget = family.shape(1), Budget(str(KEEP))
    job = Job(family, REDUCER, REDUCER.turns(shape, budget), states=REDUCER.states(shape, budget))
    part = EvictPart(job, (Group(0, 2, 4),))
    model = trace(part, "fp32", mode)
    optimise(model)
    return part, model


def shapes(values):
    return {value.name: [size if isinstance(size, int) else size.value for size in value.shape] for value in values}


def test_ports(traced):
    part, model = traced
    caches = [f"{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]
    assert shapes(model.graph.inputs) == {
        "attention_mask.0": ["batch", "past.0"],
        **{f"past_key_values.{cache}": ["batch", 1, "past.0", 8] for cache in caches},
        **{f"state.logits.{layer}": ["batch", 1, "past.0"] for layer in (0, 1)},
    }
    assert shapes(model.graph.outputs) == {
        **{f"present.{cache}": ["batch", 1, KEEP, 8] for cache in caches},
        "kept_mask.0": ["batch", KEEP],
        "next_position": ["batch", 1],
    }
    assert part.found.facts["above"] == KEEP
    assert part.found.facts["groups"] == [{"first": 0, "end": 2, "tokens": 4, "fixed": KEEP}]


@pytest.mark.parametrize("past", [5, 8, 9, 30])
def test_the_graph_leaves_what_the_method_says(traced, past):
    _, model = traced
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    torch.manual_seed(past)
    valid = torch.ones(2, past) > 0
    valid[1, 2:5] = False
    given = {"attention_mask.0": valid.to(torch.int64)}
    for layer in (0, 1):
        given |= {f"past_key_values.{layer}.{kind}": torch.randn(2, 1, past, 8) for kind in ("key", "value")}
        given[f"state.logits.{layer}"] = torch.randn(2, 1, past)
    values = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    got = dict(zip([output.name for output in session.get_outputs()], values, strict=True))
    state = {name.removeprefix("state."): values for name, values in given.items() if name.startswith("state.")}
    for stage in REDUCER.turns(traced[0].job.shape, Budget(str(KEEP))):
        pair = tuple(given[f"past_key_values.{stage.layer}.{kind}"] for kind in ("key", "value"))
        (key, value), slots = left(REDUCER, stage, CacheTaps(valid, state), pair)
        np.testing.assert_array_equal(got["kept_mask.0"], slots.to(torch.int64))
        for kind, want in (("key", key), ("value", value)):
            np.testing.assert_array_equal(got[f"present.{stage.layer}.{kind}"], want)
    assert got["next_position"].tolist() == [[min(int(n), KEEP)] for n in valid.sum(1)]
