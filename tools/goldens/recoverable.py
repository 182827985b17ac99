"""Vectors of Recoverable Compression: query, keys and projected patches of the last layer, and the question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.methods.recoverable import Recoverable
from exporter.reducer import QKV, Grid, Shape
from exporter.sequence import Sequence, cut
from tools.golden import Arrays, Check

INPUTS = ("hidden_sel", "q_last_cls", "k_last", "projected_last_hidden", "text_feature")


def checks(case: Arrays) -> Iterator[Check]:
    """The authors' counts, their way with keys included."""
    visual, text = int(case["num_visual"]), int(case["num_text"])
    centres = case["center_indices_in_rest"].shape[1]
    method = Recoverable(f"{visual}/{text}/{centres}", int(case["knn"]), bit_faithful=True)
    rows = Budget(str(visual + text + (centres + 1 if centres else 0)))

    def run(*arrays: Tensor) -> Mapping[str, Tensor]:
        hidden, q, k, projected, question = arrays
        batch, length, _ = hidden.shape
        shape = Shape(length - 1, Grid(1, length - 1), tower_layers=2)
        heads = QKV(q[:, None], k[:, None], k[:, None])
        seen = {0: Seen({"out": hidden}), 1: Seen({"out": projected}, qkv={False: heads, True: heads})}
        inputs = {"clip_text": question[:, None]}
        taps = EagerTaps((1,), length - 1, length, seen, shape, inputs=inputs, batch=batch, align=_as_it_is)
        (stage,) = method.plan(shape, rows)
        chosen = method.select(taps, stage)
        assert chosen.indices is not None
        origin = torch.arange(length - 1).expand(batch, 1, -1)
        after = cut(Sequence(hidden, 1, length - 1, origin), stage, chosen, renumber=False)
        found = {"kept_indices": chosen.indices[:, 0], "out_features": after.hidden[:, 1:]}
        if chosen.mix is not None:  # a centre's own weight is the only 1
            patches = chosen.mix[:, 0, :-1].argmax(-1)
            passed = (chosen.indices[:, 0, :, None] < patches[:, None]).sum(1)
            found["center_indices_in_rest"] = patches - passed
        return found | {"similarity": method.relevance(taps, 1)}

    names = ["kept_indices", "out_features", "similarity", *(["center_indices_in_rest"] if centres else [])]
    inputs = tuple(torch.from_numpy(case[name]) for name in INPUTS)
    yield Check("the authors' counts", run, inputs, {name: case[name] for name in names})


def _as_it_is(states: Tensor, *, norm: bool) -> Tensor:  # noqa: ARG001 - recorded behind the projection
    return states
