"""Vectors of VLA-Pruner: one control step of the authors' code, the prompt, six generated actions and the history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from exporter.maths.memory import remembered
from exporter.methods.vla_pruner import VLAPruner
from exporter.reducer import Selection, Stage, Taps
from exporter.select import marked, top_k
from tools.golden import Arrays, Check
from tools.goldens.decoders import Decoder, config, play


@dataclass(frozen=True)
class _Shown(VLAPruner):
    """The same, which also shows what it ranks, and the rows of attention that it adds up."""

    rows: list[Tensor] = field(default_factory=list)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        found = super().select(taps, stage)
        if stage.keep is None:
            self.rows.append(taps.rows(stage.layer, "last")[0, :, 0])
            return found
        past, now = self.guide(found.state["history"])[0, 0], self.current(taps, stage.layer)[0, 0]
        both = {"topk_guide": top_k(past, stage.keep), "topk_current": top_k(now, stage.keep)}
        union = marked(torch.stack(list(both.values())).flatten(), len(now))
        scores = {"guide_bf16_as_f32": past, "current_score": now, "union_candidates": (union > 0).to(torch.int64)}
        return replace(found, outputs=both | scores)

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        self.rows.append(taps.rows(stage.layer, "last")[0, :, 0])
        return super().decode(taps, stage)


def checks(case: Arrays) -> Iterator[Check]:
    """Everything that the case records, with the newest entry of the history as one that is still to come."""
    own = config(case)
    model = Decoder.of(
        case, heads=own["num_heads"], kv_heads=own["num_kv_heads"], eps=own["rms_norm_eps"], theta=own["rope_theta"]
    )
    width, start = own["n_image"], own["image_start"]
    full = len(case["av_hist_in"]) == own["window"]
    keep = round(width * (1 - own["fastv_r"])) if full else width

    def run(embeds: Tensor, history: Tensor, actions: Tensor) -> Mapping[str, Tensor]:
        reducer = _Shown(own["fastv_k"], own["history_layer"], own["window"], own["decay"], own["selection"], rows=[])
        stages = reducer.stages(model.shape(width), keep)
        older = torch.zeros(own["window"] + 1 - len(history), width)
        state = {
            "history": torch.cat([older, history[:-1]])[None],
            "attended": history[-1:],
            "rows": torch.ones(1, 1),
        }
        played = play(model, reducer, stages, embeds, start, width, steps=stages[1:], state=state)
        kept = played.walk.sequence.rows
        assert kept is not None
        hidden = played.run(list(actions))
        left = remembered(*(played.state[name] for name in ("history", "attended", "rows")))[0]
        return {
            **played.outputs,
            "kept_indices": kept[0],
            "kv_len_prefill": played.lengths,
            "hidden_prefill": played.hidden,
            "dec_hidden": torch.stack(hidden),
            "av_hist_out": left[-len(case["av_hist_out"]) :],
            **{f"attn_l15_action_row_t{turn}": row for turn, row in enumerate(reducer.rows)},
        }

    names = ("inputs_embeds", "av_hist_in", "dec_embeds")
    skipped = {"config", "min_rel_margin", *names}
    want = {name: values for name, values in case.items() if name not in skipped and not name.startswith("w.")}
    want["union_candidates"] = marked(torch.from_numpy(case["union_candidates"]), width).to(torch.int64).numpy()
    want |= {name: np.sort(case[name]) for name in ("topk_guide", "topk_current")}  # sets
    yield Check("control step", run, [torch.from_numpy(case[name]) for name in names], want)
