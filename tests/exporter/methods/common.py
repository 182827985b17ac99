"""What the tests of methods share: recorded vectors, taps over made-up arrays, PyTorch against ONNX Runtime."""

from pathlib import Path

import torch

from exporter.eager_taps import EagerTaps, Seen
from exporter.reducer import Grid, Shape
from tools.golden import Check, as_graph, compare, play

GOLDEN = Path(__file__).parents[2] / "golden"


def golden_paths(name):
    """The recorded cases of a method, as `--method` spells it; each has some."""
    paths = sorted((GOLDEN / name).glob("case*.npz"))
    assert paths, f"no golden vectors of {name}"
    return paths


def play_case(path):
    """Play every check of a case in PyTorch and as a graph; all must match. Returns the checks' names."""
    played = list(play(path))
    assert played
    assert {what: wrong for what, ok, _, wrong in played if not ok} == {}
    return [what for what, *_ in played]


def exported(run, *inputs):
    """`run(*inputs)` as a graph in ONNX Runtime, which must be what PyTorch gives; a tensor or a mapping of tensors.

    Every input must matter to the result, and all shapes are constant.
    """
    bare = isinstance(run(*inputs), torch.Tensor)
    named = (lambda *tensors: {"out": run(*tensors)}) if bare else run
    want = {name: tensor.numpy() for name, tensor in named(*inputs).items()}
    got = as_graph(Check("exported", named, inputs, want))
    matches, _, wrong = compare(got, want)
    assert matches, wrong
    return torch.from_numpy(got["out"]) if bare else {name: torch.from_numpy(value) for name, value in got.items()}


def taps(seen, *, patches, batch=1, has_cls=True, grid=None, views=1, **more):
    """Taps over what layers showed, `{layer: Seen}`; the views' tokens are one span, behind [CLS] where there is one.

    `more`: fields of `Shape` (tower_last=..., video=True) and of `EagerTaps` (carry=..., inputs=...).
    """
    side = round(patches**0.5)
    grid = Grid(*(grid or ((side, side) if side * side == patches else (1, patches))))
    geometry = {name: more.pop(name) for name in list(more) if name in Shape.__dataclass_fields__}
    shape = Shape(patches, grid, has_cls=has_cls, views=views, **geometry)
    first, width = int(has_cls), patches * views
    return EagerTaps((first,), width, first + width, seen, shape, batch=batch, **more)


def cls_taps(rows, *, hidden=None, **more):
    """Taps over [CLS] rows `[B,H,1+N]` of layer 0, or of several, `{layer: rows}`; `hidden` `[B,1+N,C]` likewise."""
    rows = rows if isinstance(rows, dict) else {0: rows}
    return map_taps({layer: row[:, :, None] for layer, row in rows.items()}, hidden=hidden, **more)


def map_taps(maps, *, hidden=None, has_cls=True, **more):
    """Taps over attention maps `[B,H,n,n]` (or their first rows) of layer 0, or of several: `{layer: map}`."""
    maps = maps if isinstance(maps, dict) else {0: maps}
    hidden = {} if hidden is None else hidden if isinstance(hidden, dict) else {0: hidden}
    seen = {layer: Seen(attention=attention) for layer, attention in maps.items()}
    for layer, states in hidden.items():
        seen.setdefault(layer, Seen()).points["out"] = states
    batch, _, _, length = next(iter(maps.values())).shape
    return taps(seen, patches=length - has_cls, batch=batch, has_cls=has_cls, **more)


def hidden_taps(states, *, layer=-1, views=1, has_cls=False, **more):
    """Taps over hidden states alone, `[B,n,C]`; by default the projected rows of all views, `[B,V*N,D]`."""
    batch, length, _ = states.shape
    seen = {layer: Seen({"out": states})}
    return taps(seen, patches=(length - has_cls) // views, batch=batch, has_cls=has_cls, views=views, **more)


def uniform(*shape, seed=0):
    """Seeded fp32 values in [0, 1)."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    """Seeded fp32 normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(*shape, seed=0, spread=2.0):
    """Seeded rows that sum to 1, softmax over the last axis."""
    return (spread * normal(*shape, seed=seed)).softmax(-1)


def in_turn(select, *arrays):
    """What `select` keeps of each batch entry by itself, in one tensor."""
    return torch.cat([select(*(array[b : b + 1] for array in arrays)) for b in range(len(arrays[0]))])


def shuffled(array, *axes, seed=0):
    """`array` with the tokens behind [CLS] in another order along the axes, and that order."""
    order = torch.randperm(array.shape[axes[0]] - 1, generator=torch.Generator().manual_seed(seed))
    places = torch.cat([torch.zeros(1, dtype=torch.int64), order + 1])
    for axis in axes:
        array = array.index_select(axis, places)
    return array, order
