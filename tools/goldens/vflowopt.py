"""Vectors of VFlowOpt: importance of patches, tiles that merge, and a small decoder that cuts by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from exporter.budget import Budget
from exporter.eager_taps import EagerTaps, Seen
from exporter.maths.cells import cells, condensed
from exporter.maths.focus import entropies
from exporter.methods.vflowopt import Tuned, VFlowOpt
from exporter.reducer import Grid, Shape
from tools.golden import Arrays, Check
from tools.goldens.decoders import config, play
from tools.goldens.recorded import given, listed, recorded

MOST_TILES, ENOUGH = 9, 1.1  # a canvas of more tiles is shrunk, if by more than that


def checks(case: Arrays) -> Iterator[Check]:
    """The map, what merging leaves, and the decoder's rows, states, caches and next tokens."""
    yield _map(case)
    yield _merged(case)
    yield _decoder(case)


def _stage0(case: Arrays) -> dict[str, Any]:
    return dict(json.loads(str(case["stage0.config"])))


def _map(case: Arrays) -> Check:
    told, names = _stage0(case), ("entropy", "importance_map")
    batch, _, down, across = case["stage0.entropy"].shape
    shape = Shape(down * across, Grid(down, across), has_cls=False)
    reducer = VFlowOpt(alpha_v=told["alpha_v"])

    def run(pixels: Tensor, attention: Tensor) -> Mapping[str, Tensor]:
        width, seen = shape.patches, {0: Seen(attention=attention)}
        taps = EagerTaps((0,), width, width, seen, shape, inputs={"pixels": pixels}, batch=batch)
        found = reducer.select(taps, Tuned("tower", 0, t=told["t"])).carry["importance"][:, 0]
        levels = entropies(pixels, shape.grid).reshape(case["stage0.entropy"].shape)
        return {"stage0.entropy": levels, "stage0.importance_map": found}

    arrays = (torch.from_numpy(case["stage0.pixel_values"]), torch.from_numpy(case["stage0.vit_attention"]))
    return Check("map", run, arrays, {f"stage0.{name}": case[f"stage0.{name}"] for name in names})


def _merged(case: Arrays) -> Check:
    """With as many tokens as were recorded: so many cells had something to merge."""
    told, side = _stage0(case), int(_stage0(case)["side"])
    rows, importance, canvas = _listed(case, side)
    cell, total = cells((Grid(side, side), canvas), told["illava_vit_m"]), len(importance)
    gone = round(total * (1 - told["illava_vit_r"])) + int(total / told["illava_vit_m"] ** 2)

    def run(rows: Tensor, importance: Tensor) -> Mapping[str, Tensor]:
        kept, mix = condensed(importance[None], cell, len(case["stage0.recycled_importance"]), total - gone)
        return {"stage0.recycled_tokens": mix[0] @ rows, "stage0.recycled_importance": importance[kept[0]]}

    names = ("stage0.recycled_tokens", "stage0.recycled_importance")
    return Check("merged", run, (rows, importance), {name: case[name] for name in names})


def _listed(case: Arrays, side: int) -> tuple[Tensor, Tensor, Grid]:
    """All rows and their importance as the model reads them: the picture, the lines of the canvas and their ends."""
    features, attention = (torch.from_numpy(case[f"stage0.tile_{name}"]) for name in ("features", "attention"))
    both = torch.cat([features, attention[..., None]], -1)
    width, height = map(int, _stage0(case)["image_size_wh"])
    rows, cols = _tiles(width, height, len(both) - 1)
    canvas = both[1:].reshape(rows, cols, side, side, -1).permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)
    canvas = _unpadded(canvas, width, height)
    if (times := (canvas.shape[1] * canvas.shape[2] / (MOST_TILES * side**2)) ** 0.5) > ENOUGH:
        size = [int(canvas.shape[1] // times), int(canvas.shape[2] // times)]
        canvas = interpolate(canvas[None], size, mode="bilinear")[0]
    end = torch.cat([torch.from_numpy(case["stage0.image_newline"]), torch.ones(1)])
    canvas = torch.cat([canvas, end[:, None, None].expand(-1, canvas.shape[1], 1)], 2)
    whole = torch.cat([both[0], canvas.flatten(1).T])
    return whole[:, :-1], whole[:, -1], Grid(*canvas.shape[1:])


def _tiles(width: int, height: int, count: int) -> tuple[int, int]:
    """Rows and columns of `count` tiles that fit the picture best: most of it, then the least left over."""

    def fit(grid: tuple[int, int]) -> tuple[float, float]:
        scale = min(grid[1] / width, grid[0] / height)
        return scale**2 * width * height, -grid[0] * grid[1]

    return max(((rows, count // rows) for rows in range(1, count + 1) if count % rows == 0), key=fit)


def _unpadded(canvas: Tensor, width: int, height: int) -> Tensor:
    """`[C,h,w]` without the borders that a picture of other proportions leaves."""
    down, across = canvas.shape[1:]
    if width / height > across / down:
        border = (down - int(height * (across / width))) // 2
        return canvas[:, border : down - border]
    border = (across - int(width * (down / height))) // 2
    return canvas[:, :, border : across - border]


def _decoder(case: Arrays) -> Check:
    """Causal throughout; of the released form's caches those up to the layer without a mask."""
    told = config(case)
    decoder, width, start = recorded(case), int(told["n_image"]), int(told["image_start"])
    behind = told["prune_before_layers_0based"]
    reducer = VFlowOpt(r_v=1.0, rho=listed(told["keep_ratios"]), layers=listed(behind))
    stages = tuple(s for s in reducer.plan(decoder.shape(width), Budget("100%")) if s.stack == "decoder")

    def run(embeds: Tensor, steps: Tensor, importance: Tensor) -> Mapping[str, Tensor]:
        played = play(decoder, reducer, stages, embeds, start, width, carry={"importance": importance[None, None]})
        out = played.run(list(steps))
        found = {"hidden_prefill_causal": played.hidden, "kv_len_prefill": played.lengths, **played.cache()}
        found |= {f"dec_hidden_t{number}_causal": hidden for number, hidden in enumerate(out)}
        found["dec_position_ids"] = played.places[0][0] - torch.arange(len(out), 0, -1)
        for number, layer in enumerate(behind):
            rows = played.caches[layer].sequence.rows
            assert rows is not None
            found[f"kept_stage{number}"] = rows[0]
        return found

    names = {"kv_len_prefill", "dec_position_ids", *(f"{kind}_cache_l{n}" for n in range(behind[0]) for kind in "kv")}
    want = {n: v for n, v in case.items() if n in names or n.endswith("_causal") or n.startswith("kept_stage")}
    return Check("decoder", run, (*given(case), torch.from_numpy(case["importance"])), want)
