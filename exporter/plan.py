"""From a reducer and a budget to checked stages, before anything is traced."""

from __future__ import annotations

from collections.abc import Iterable

from engines.errors import UserError
from exporter.budget import Budget
from exporter.reducer import Reducer, Shape, Stage

STACKS = ("tower", "projected", "decoder")
TENSORRT_TOP_K = 3840  # the largest K that TensorRT's TopK builds


def make_plan(name: str, reducer: Reducer, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
    """The stages of `reducer` for this geometry.

    Raises:
        UserError: the budget does not fit, or the method needs what this model or this version does not have.
    """
    if "cls" in reducer.needs and not shape.has_cls:
        raise UserError(f"--method {name}: it ranks by [CLS] attention and this model's tower has no [CLS] token")
    if "video" in reducer.needs and not shape.video:
        raise UserError(f"--method {name}: it selects among the frames of a video; give a model that takes videos")
    if reducer.state or reducer.positions == "slot":
        raise UserError(f"--method {name}: engine state and slot positions are not supported by the decoder parts")
    stages = reducer.plan(shape, budget)
    order = [(STACKS.index(stage.stack), stage.layer, stage.at != "mid") for stage in stages]
    if order != sorted(order):
        raise UserError(f"--method {name}: its stages are not in the order in which layers run")
    widths = {"tower": shape.patches}
    for stage in stages:
        _check(name, stage, shape, reducer)
        widths[stage.stack] = _width(name, stage, widths, shape.views)
    return stages


def _check(name: str, stage: Stage, shape: Shape, reducer: Reducer) -> None:
    last = {"tower": shape.tower_last, "projected": -1, "decoder": shape.decoder_layers - 2}[stage.stack]
    if stage.at not in ({"after", "mid"} if stage.stack == "tower" else {"after"}):
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
    if stage.stack == "decoder" and stage.extra and reducer.positions == "keep":
        raise UserError(f"--method {name}: merged rows in the decoder have no position to keep; use 'renumber'")


def _width(name: str, stage: Stage, widths: dict[str, int], views: int) -> int:
    """Tokens per span after a stage; a stack starts with what the one before it left."""
    before = widths.get(stage.stack, widths.get("projected", widths["tower"] * views))
    if stage.keep is None:
        return before
    where = f"after {stage.stack} layer {stage.layer}"
    if stage.extra < 0 or not 0 <= stage.keep <= before + (before if stage.blanks else 0):
        raise UserError(
            f"--method {name}: cannot keep {stage.keep} of {before} tokens {where}, with {stage.extra} merged"
        )
    if not stage.width and stage.stack != "decoder":
        raise UserError(f"--method {name}: nothing is left of an image {where}; only the decoder can drop all of it")
    return stage.width


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
