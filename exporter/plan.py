"""From a reducer and a budget to checked stages, before anything is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engines.errors import UserError
from exporter.budget import Budget
from exporter.reducer import Reducer, Shape, Stage

STACKS = ("tower", "projected", "decoder")
SITES = {"tower": {"after", "mid"}, "projected": {"after"}, "decoder": {"after", "around", "kv"}}
TENSORRT_TOP_K = 3840  # the largest K that TensorRT's TopK builds


def make_plan(
    name: str,
    reducer: Reducer,
    shape: Shape,
    budget: Budget,
    plan: Callable[[Shape, Budget], tuple[Stage, ...]] | None = None,
) -> tuple[Stage, ...]:
    """The stages of `reducer` for this geometry, by its own `plan` or another of its plans.

    Raises:
        UserError: the budget does not fit, or the method needs what this model or this version does not have.
    """
    if "cls" in reducer.needs and not shape.has_cls:
        raise UserError(f"--method {name}: it ranks by [CLS] attention and this model's tower has no [CLS] token")
    if "video" in reducer.needs and not shape.video:
        raise UserError(f"--method {name}: it selects among the frames of a video; give a model that takes videos")
    if reducer.pictures and not shape.tokens:
        raise UserError(f"--method {name}: it selects tokens of pictures, and this model reads text only")
    stages = (plan or reducer.plan)(shape, budget)
    order = [(STACKS.index(stage.stack), stage.layer, _turn(stage)) for stage in stages]
    if order != sorted(order):
        raise UserError(f"--method {name}: its stages are not in the order in which layers run")
    widths = {"tower": shape.patches}
    for stage in stages:
        _check(name, stage, shape, reducer)
        widths[stage.stack] = _width(name, stage, widths, shape.views)
    return stages


def _turn(stage: Stage) -> int:
    """When a stage acts among those of its layer."""
    return 4 if stage.since is not None else ("around", "mid", "kv", "after").index(stage.at)


def _check(name: str, stage: Stage, shape: Shape, reducer: Reducer) -> None:
    inside = stage.keep is None or stage.at in {"around", "kv"}  # of layers, which leaves the sequence as it is
    deepest = shape.decoder_layers - (1 if inside else 2)
    last = {"tower": shape.tower_last, "projected": -1, "decoder": deepest}[stage.stack]
    if stage.at not in SITES[stage.stack]:
        raise UserError(f"--method {name}: a stage '{stage.at}' a {stage.stack} layer is not supported")
    if stage.stack == "tower" and stage.keep is not None and shape.pooled:
        raise UserError(
            f"--method {name}: it cuts in the tower, which is not possible where frames are pooled behind it; "
            "use a method that cuts later"
        )
    if stage.cls and not (stage.stack == "tower" and shape.has_cls):
        raise UserError(f"--method {name}: no [CLS] token to keep at {stage.stack} layer {stage.layer}")
    if not -1 <= stage.layer <= last:
        raise UserError(
            f"--method {name}: no {stage.stack} layer {stage.layer} to act after; this model allows -1 to {last}"
        )
    if stage.at == "kv" and stage.since is None and not (stage.keep or 0) > 0:
        raise UserError(f"--method {name}: a cache of {stage.keep} slots after decoder layer {stage.layer}")
    if stage.stack == "decoder" and stage.extra and reducer.positions == "keep":
        raise UserError(f"--method {name}: merged rows in the decoder have no position to keep; use 'renumber'")


def _width(name: str, stage: Stage, widths: dict[str, int], views: int) -> int:
    """Tokens per span after a stage; a stack starts with what the one before it left."""
    before = widths.get(stage.stack, widths.get("projected", widths["tower"] * views))
    if stage.keep is None or stage.at == "kv":
        return before
    where = f"after {stage.stack} layer {stage.layer}"
    if stage.extra < 0 or not 0 <= stage.keep <= before + (before if stage.blanks else 0):
        raise UserError(
            f"--method {name}: cannot keep {stage.keep} of {before} tokens {where}, with {stage.extra} merged"
        )
    if not stage.width and stage.stack != "decoder":
        raise UserError(f"--method {name}: nothing is left of an image {where}; only the decoder can drop all of it")
    return before if stage.at == "around" else stage.width


def picture_cuts(stages: Iterable[Stage]) -> list[Stage]:
    """The stages that cut a picture before the decoder reads it."""
    return [stage for stage in stages if stage.stack != "decoder" and stage.keep is not None]


def tokens_after(stages: Iterable[Stage], shape: Shape) -> int:
    """Rows that a picture takes in a prompt: what the last cut before the decoder leaves of all its views."""
    cuts = picture_cuts(stages)
    if not cuts:
        return shape.tokens
    return cuts[-1].width * (shape.views if cuts[-1].stack == "tower" else 1)


def largest_top_k(stages: Iterable[Stage]) -> int:
    """The largest K any stage asks of a TopK."""
    return max((stage.keep or 0 for stage in stages), default=0)
