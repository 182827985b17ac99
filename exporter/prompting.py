"""What becomes of prompts where the decoder is two parts: a prefill part for each length or state of things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engines.errors import UserError
from exporter.budget import Budget
from exporter.plan import make_plan
from exporter.recipe import Recipe
from exporter.reducer import Reducer, Shape, Stage

BUCKETS = (256, 512, 1024)


@dataclass(frozen=True)
class Prompting:
    """One prefill part. Spans are pictures of `tokens` rows; with `whole` one span is the prompt of `tokens` rows."""

    part: str
    tokens: int
    stages: tuple[Stage, ...]
    whole: bool = False


def budget_of(recipe: Recipe) -> Budget:
    """As the user wrote it."""
    return Budget("100%" if recipe.keep is None else recipe.keep)


def prompting(
    recipe: Recipe, reducer: Reducer, shape: Shape, stages: Sequence[Stage], tokens: int
) -> tuple[Prompting, ...]:
    """The prefill parts, the longest last; none where prompts go through the one decoder part.

    `shape` and `stages` are of pictures, which take `tokens` rows of a prompt.

    Raises:
        UserError: a bucket that is none, buckets for a method that needs none, static caches for one that cuts them at
            every step, or a plan that does not fit.
    """
    if reducer.prompt:
        found = tuple(_bucket(recipe, reducer, shape, size) for size in _sizes(recipe.buckets))
        _check_static(recipe, reducer, reducer.steps(shape.flat(found[-1].tokens), budget_of(recipe)))
        return found
    if recipe.buckets:
        raise UserError(f"--buckets: --method {recipe.method} takes prompts of any length; leave it out")
    own = tuple(stage for stage in stages if stage.stack == "decoder")
    steps = reducer.steps(shape.flat(tokens), budget_of(recipe))
    _check_static(recipe, reducer, steps)
    if not (own or steps or reducer.positions == "slot" or recipe.kv == "static"):
        return ()
    main = Prompting("prefill", tokens, own)
    if not reducer.warm_up:
        return (main,)
    dense = tuple(stage if stage.keep is None else replace(stage, keep=tokens) for stage in own)
    return Prompting("prefill.warm", tokens, dense), main


def _check_static(recipe: Recipe, reducer: Reducer, steps: Sequence[Stage]) -> None:
    if recipe.kv == "static" and (reducer.positions == "slot" or any(stage.at == "kv" for stage in steps)):
        raise UserError(
            f"--kv static: --method {recipe.method} drives entries out of its caches after the prompt, "
            "so that the others have no lasting places; leave --kv out"
        )


def _bucket(recipe: Recipe, reducer: Reducer, shape: Shape, size: int) -> Prompting:
    stages = make_plan(recipe.method, reducer, shape.flat(size), budget_of(recipe))
    return Prompting(f"prefill.{size}", size, stages, whole=True)


def _sizes(given: tuple[int, ...]) -> tuple[int, ...]:
    if any(size < 2 for size in given) or len(set(given)) < len(given):
        raise UserError(f"--buckets {','.join(map(str, given))}: give different prompt lengths, such as 256,512,1024")
    return tuple(sorted(given)) or BUCKETS
