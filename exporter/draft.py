"""What is known of an export before anything is traced: everything that can be wrong with it is found here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from engines.errors import UserError
from engines.gpus import gpu_named
from engines.registry import Dtype, Target, engine, parse_targets
from exporter.attention import register
from exporter.budget import Budget
from exporter.checkpoint import Checkpoint, find, open_checkpoint
from exporter.demo import NAMES, demo_checkpoint
from exporter.family import Facts, Family
from exporter.plan import TENSORRT_TOP_K, largest_top_k, make_plan, tokens_after
from exporter.recipe import Recipe
from exporter.reducer import Reducer, Shape, Stage
from exporter.registry import family as family_of
from exporter.registry import method
from exporter.weights import match

PRECISIONS: Mapping[str, Dtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
LONGEST = 2048  # default of --max-length: enough for one picture and a long talk


@dataclass(frozen=True)
class Draft:
    """A checked recipe: the model, the plan, the targets."""

    recipe: Recipe
    checkpoint: Checkpoint
    family: type[Family]
    config: Any
    facts: Facts
    shape: Shape
    preprocess: Mapping[str, Any]
    reducer: Reducer
    stages: tuple[Stage, ...]
    targets: tuple[Target, ...]
    stored: Dtype

    @classmethod
    def of(cls, recipe: Recipe) -> Draft:
        """Open the checkpoint, make the plan, and check everything against everything.

        Raises:
            UserError: the first thing that is wrong.
        """
        reducer = method(recipe.method, recipe.params)
        gpu_named(recipe.gpu)
        if (recipe.method == "none") != (recipe.keep is None):
            raise UserError(
                "--method none keeps every patch: leave --keep out"
                if recipe.keep
                else f"--method {recipe.method}: give a budget with --keep, such as --keep 64 or --keep 11%"
            )
        targets = tuple(parse_targets(recipe.targets))
        built_in = recipe.model in NAMES or recipe.model.startswith("demo:")
        folder = demo_checkpoint(recipe.model) if built_in else find(recipe.model)
        checkpoint = open_checkpoint(folder)
        family = family_of(checkpoint.config, str(folder))
        config = family.load_config(folder)
        with torch.device("meta"):
            empty = family(config, family.empty(config, torch.float32, register()))
        stored = PRECISIONS[next(iter(match(empty, checkpoint).values())).dtype]
        shape = empty.shape(recipe.images)
        stages = make_plan(recipe.method, reducer, shape, Budget(recipe.keep or "100%"))
        draft = cls(
            recipe,
            checkpoint,
            family,
            config,
            empty.facts(folder),
            shape,
            family.preprocess(folder),
            reducer,
            stages,
            targets,
            stored,
        )
        draft.check()
        return draft

    def check(self) -> None:
        """What needs more than one of the fields.

        Raises:
            UserError: a budget that TensorRT cannot build, a precision no target takes, too short a cache.
        """
        if any(t.name.startswith("trt") for t in self.targets) and largest_top_k(self.stages) > TENSORRT_TOP_K:
            raise UserError(
                f"--keep {self.recipe.keep}: TensorRT's TopK takes at most {TENSORRT_TOP_K}; "
                "keep fewer, or use --target ort-cpu"
            )
        if self.recipe.max_batch < 1 or self.images < 1:
            raise UserError("--max-batch and --images must be at least 1")
        need = self.images * self.tokens + 2
        if not need <= self.length <= self.facts.max_positions:
            raise UserError(
                f"--max-length {self.length}: must lie between {need} (pictures and a word) "
                f"and the model's {self.facts.max_positions}"
            )

    @property
    def length(self) -> int:
        """Most cache slots of one sequence."""
        return self.recipe.max_length or min(self.facts.max_positions, LONGEST)

    @property
    def images(self) -> int:
        """Pictures a prompt may hold where the decoder is cut."""
        return self.recipe.images

    @property
    def tokens(self) -> int:
        """Rows one image takes in the prompt."""
        return tokens_after(self.stages, ("tower", "projected"), self.shape.patches)

    @property
    def cut_decoder(self) -> bool:
        """Whether the decoder needs two parts."""
        return any(stage.stack == "decoder" for stage in self.stages)

    @property
    def precisions(self) -> tuple[Dtype, ...]:
        """Every precision a graph is traced in; fp32 always, because parity is proven in it."""
        return tuple(dict.fromkeys(("fp32", *(self.precision(t) for t in self.targets))))

    def precision(self, target: Target) -> Dtype:
        """What one target computes in."""
        return self.recipe.dtype or engine(target.name).dtype(self.stored)

    @cached_property
    def hashes(self) -> list[str]:
        """sha256 of every shard."""
        return [self.checkpoint.content_hash(file) for file in self.checkpoint.files]
