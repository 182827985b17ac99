"""Vectors of VLA-Pruner: one control step of the authors' code, the prompt, six generated actions and the history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, int64

from exporter.maths.memory import remembered
from exporter.methods.vla_pruner import VLAPruner
from exporter.reducer import Selection, Stage, Taps
from exporter.select import marked, top_k
from tools.golden import Arrays, Check
from tools.goldens.decoders import Decoder, Played, config, play

SKIPPED = {"config", "min_rel_margin", "inputs_embeds", "av_hist_in", "dec_embeds"}
ROW = "attn_l15_action_row_t"


@dataclass(frozen=True)
class _Shown(VLAPruner):
    """The same, which also shows what it ranks, and the rows of attention that it adds up."""

    rows: list[Tensor] = field(default_factory=list)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        found = super().select(taps, stage)
        if stage.keep is None:
            self.rows.append(taps.rows(stage.layer, "last")[0])
            return found
        past, now = self.guide(found.state["history"])[0, 0], self.current(taps, stage.layer)[0, 0]
        both = {"topk_guide": top_k(past, stage.keep), "topk_current": top_k(now, stage.keep)}
        union = marked(torch.stack(list(both.values())).flatten(), len(now))
        scores = {"guide_bf16_as_f32": past, "current_score": now, "union_candidates": (union > 0).to(int64)}
        return replace(found, outputs=both | scores)

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        self.rows.append(taps.rows(stage.layer, taps.span[:, 0])[0])  # of all new rows
        return super().decode(taps, stage)


def checks(case: Arrays) -> Iterator[Check]:
    """The prompt, with the newest entry of the history as one still to come; all actions at once, and the history."""
    own = config(case)
    given = {name: torch.from_numpy(case[name]) for name in ("inputs_embeds", "av_hist_in", "dec_embeds")}
    reducer = _Shown(own["fastv_k"], own["history_layer"], own["window"], own["decay"], own["selection"])
    want = {name: values for name, values in case.items() if name not in SKIPPED and not name.startswith("w.")}
    want["union_candidates"] = marked(torch.from_numpy(case["union_candidates"]), own["n_image"]).to(int64).numpy()
    want |= {name: np.sort(case[name]) for name in ("topk_guide", "topk_current")}  # sets
    after = {name for name in want if name.startswith(("dec_", "av_", "attn_"))} - {f"{ROW}0"}

    def prompt(embeds: Tensor, history: Tensor) -> Mapping[str, Tensor]:
        played = _prompt(case, reducer, embeds, history)
        kept = played.walk.sequence.rows
        assert kept is not None
        lengths = {"kv_len_prefill": played.lengths, "hidden_prefill": played.hidden}
        return {**played.outputs, **lengths, "kept_indices": kept[0], f"{ROW}0": reducer.rows[-1][:, 0]}

    inputs = given["inputs_embeds"], given["av_hist_in"]
    yield Check("prompt", prompt, inputs, {name: want[name] for name in want.keys() - after})
    begun = _prompt(case, reducer, *inputs)
    before = begun.state

    def actions(embeds: Tensor, attended: Tensor, *caches: Tensor) -> Mapping[str, Tensor]:
        pairs = zip(begun.caches, caches[::2], caches[1::2], strict=True)
        cached = [replace(cache, key=key, value=value) for cache, key, value in pairs]
        played = replace(begun, caches=cached, state={**before, "attended": attended})
        (hidden,) = played.run([embeds[:, 0, 0][None]])
        left = remembered(*(played.state[name] for name in ("history", "attended", "rows")))[0]
        length, rows = begun.caches[own["history_layer"]].key.shape[2], reducer.rows[-1]
        shown = {f"{ROW}{n + 1}": rows[:, n, : length + n + 1] for n in range(rows.shape[1])}
        entries = left[-len(case["av_hist_out"]) :]
        return {"dec_hidden": hidden[0][:, None, None], "av_hist_out": entries, **shown}

    caches = [kind for cached in begun.caches for kind in (cached.key, cached.value)]
    yield Check("actions", actions, (given["dec_embeds"], before["attended"], *caches), {n: want[n] for n in after})


def _prompt(case: Arrays, reducer: _Shown, embeds: Tensor, history: Tensor) -> Played:
    """With as many entries as there are; before they are W, everything stays."""
    own, eps = config(case), "rms_norm_eps"
    model = Decoder.of(
        case, heads=own["num_heads"], kv_heads=own["num_kv_heads"], eps=own[eps], theta=own["rope_theta"]
    )
    width = own["n_image"]
    keep = round(width * (1 - own["fastv_r"])) if len(history) == reducer.temporal_w else width
    stages = reducer.stages(model.shape(width), keep)
    older = torch.zeros(reducer.temporal_w + 1 - len(history), width)
    state = {
        "history": torch.cat([older, history[:-1]])[None],
        "attended": history[-1:],
        "rows": torch.ones(1, 1),
    }
    return play(model, reducer, stages, embeds, own["image_start"], width, steps=stages[1:], state=state)
