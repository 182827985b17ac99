"""What a method computes anew for every picture, learnt from some: the parameter that makes it constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from engines.errors import UserError
from engines.images import open_image
from exporter.budget import Budget
from exporter.draft import Draft
from exporter.pictures import pictures
from exporter.plan import make_plan
from exporter.recipe import Recipe
from exporter.reducer import Reducer, Shape, Stage
from exporter.reference import Reference
from exporter.registry import method_class, method_names


@runtime_checkable
class Calibrated(Protocol):
    """A method that computes counts for each picture in one mode, and takes them as a parameter in another."""

    def probe(self) -> Reducer:
        """The method in the mode that computes them and says so in its outputs."""

    def learnt(self, shape: Shape, stages: Sequence[Stage], outputs: Sequence[Mapping[str, Tensor]]) -> str:
        """`NAME=VALUE`, from what the probe's stages put out for several pictures."""


def calibrate(recipe: Recipe, images: Sequence[Path]) -> str:
    """Run the method's computing mode in PyTorch, fp32, on `images`, or on the pictures that ship with tp-export.

    Returns:
        `NAME=VALUE`, as `--param` takes it.

    Raises:
        UserError: nothing to calibrate, a picture that cannot be read, or the recipe is wrong.
    """
    for image in images:
        open_image(image)  # refuses what is no picture, in words
    draft = Draft.of(replace(recipe, targets=("ort-cpu",)))
    if not isinstance(draft.reducer, Calibrated):
        known = [name for name in method_names() if issubclass(method_class(name), Calibrated)]
        raise UserError(f"--method {recipe.method}: nothing to calibrate; methods that have: {', '.join(known)}")
    probe, shape = draft.reducer.probe(), draft.shape
    stages = make_plan(recipe.method, probe, shape, Budget(str(recipe.keep)))
    if not stages:
        raise UserError(f"--keep {recipe.keep}: that is every patch; there is nothing to calibrate")
    stock = draft.family.reference(draft.checkpoint.dir)
    reference = Reference(draft.family(draft.config, stock, draft.main.form), probe, stages)
    shown = images or [picture.path for picture in pictures("demo" if recipe.model == "demo" else "general")]
    outputs = [reference.see(reference.family.stock_pixels(draft.checkpoint.dir, image)).outputs for image in shown]
    return draft.reducer.learnt(shape, stages, outputs)
