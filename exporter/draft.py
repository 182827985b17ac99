"""What is known of an export before anything is traced: everything that can be wrong with it is found here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engines.errors import UserError
from engines.graph_engine import RUNNABLE
from engines.registry import Dtype, Target, engine, parse_targets
from exporter.attention import register
from exporter.budget import Budget
from exporter.checkpoint import Checkpoint, open_checkpoint
from exporter.clip_aux import beside, join, load_config
from exporter.clip_processor import output_size
from exporter.config import refusals_in_words
from exporter.family import Facts, Family
from exporter.form import Asked, Form
from exporter.furnish import check_prompt
from exporter.pictures import pictures
from exporter.plan import TENSORRT_TOP_K, largest_top_k, make_plan, picture_cuts, tokens_after
from exporter.prompting import Prompting, budget_of, prompting
from exporter.recipe import Recipe
from exporter.recipe_checks import check_recipe, clip_folder, folder_of
from exporter.reducer import Reducer, Shape, Stage, StateSpec
from exporter.registry import family as family_of
from exporter.registry import method
from exporter.router import with_router
from exporter.weights import match, widest

PRECISIONS: Mapping[str, Dtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
LONGEST = 2048  # default of --max-length: enough for one picture and a long talk
ANSWER = 32  # tokens of an answer that must find room
LARGEST_CACHE = 2**31 - 1  # slots of a whole batch: indices of 32 bits reach them


@dataclass(frozen=True)
class Planned:
    """One form of picture, and what becomes of it."""

    form: Form
    shape: Shape
    stages: tuple[Stage, ...]
    preprocess: Mapping[str, Any]
    placeholder: int | None
    mrope: Mapping[str, Any] | None
    added: int  # rows that the family adds, where the picture is uncut
    rows: int  # of an uncut picture

    @property
    def projected(self) -> int:
        """Rows of one picture that pass the projector."""
        return tokens_after([stage for stage in self.stages if stage.stack == "tower"], self.shape)

    @property
    def tokens(self) -> int:
        """Rows that one picture takes in the prompt."""
        return tokens_after(self.stages, self.shape) + self.added


@dataclass(frozen=True)
class Draft:
    """A checked recipe: the model, the plan for each form of picture and of prompt, the targets."""

    recipe: Recipe
    checkpoint: Checkpoint
    family: type[Family]
    config: Any
    facts: Facts
    planned: tuple[Planned, ...]
    reducer: Reducer
    targets: tuple[Target, ...]
    stored: Dtype
    prompts: tuple[Prompting, ...] = ()  # where the decoder is two parts
    clip: Path | None = None  # the CLIP checkpoint beside it
    router: str | None = None  # sha256 of the method's trained weights

    @classmethod
    def of(cls, recipe: Recipe) -> Draft:
        """Open the checkpoint, make the plan, and check everything against everything.

        Raises:
            UserError: the first thing that is wrong.
        """
        check_recipe(recipe)
        reducer = method(recipe.method, recipe.params)
        targets = tuple(parse_targets(recipe.targets))
        folder = folder_of(recipe.model)
        checkpoint = open_checkpoint(folder)
        family = family_of(checkpoint.config, str(folder))
        config = family.load_config(folder)
        clip = clip_folder(recipe, reducer, family)
        if clip is not None:
            checkpoint, config.clip_aux = join(checkpoint, clip), load_config(clip)
        with refusals_in_words(folder / "config.json"), torch.device("meta"):
            empty = family(config, beside(family.empty(config, torch.float32, register()), config, torch.float32))
        asked = Asked(recipe.input, recipe.grids, recipe.image_size, recipe.frames)
        forms = family.forms(config, asked)
        reducer, router = with_router(recipe, reducer, empty.of(forms[0]).shape(recipe.images))
        planned = tuple(_planned(recipe, reducer, empty.of(form), folder) for form in forms)
        prompts = prompting(recipe, reducer, planned[0].shape, planned[0].stages, planned[0].tokens)
        stored = PRECISIONS[widest(match(empty, checkpoint))]
        draft = cls(
            recipe,
            checkpoint,
            family,
            config,
            empty.facts(folder),
            planned,
            reducer,
            targets,
            stored,
            prompts,
            clip,
            router,
        )
        draft.check()
        return draft

    def check(self) -> None:
        """What needs more than one of the fields.

        Raises:
            UserError: a budget that TensorRT cannot build, a precision no target takes, too short a cache.
        """
        for target in self._wanted:
            self._check_target(target)
        for each in self.planned if self.reads_pictures else ():
            if (size := output_size(each.preprocess)) != each.form.size:
                raise UserError(
                    f"{self.checkpoint.dir}: preprocessor_config.json makes pictures of {size or 'any size'}, "
                    f"config.json wants {each.form.size} (height, width)"
                )
        if self.recipe.parity == "vision" and not self.reads_pictures:
            raise UserError(f"--parity vision: {self.family.title} has no vision part; use --parity none or full")
        if self.reducer.positions == "slot" and self.family.axes > 1:
            raise UserError(
                f"--method {self.recipe.method}: slots of the cache are positions, and those of {self.family.title} "
                f"have {self.family.axes} axes; use another form or method"
            )
        if self.split and len({each.tokens for each in self.planned}) > 1:
            names = ", ".join(each.form.part for each in self.planned)
            raise UserError(
                f"--method {self.recipe.method}: the decoder is two parts, where every picture must take the same "
                f"number of tokens, and {names} differ: choose one, such as with --grid"
            )
        self._check_room()

    def _check_target(self, target: Target) -> None:
        precision = self.precision(target)
        ranked = target.name.startswith("trt") and not (self.recipe.plugin and target not in self.targets)
        if ranked and any(largest_top_k(s) > TENSORRT_TOP_K for s in self._all_stages):
            raise UserError(
                f"--keep {self.recipe.keep}: TensorRT's TopK takes at most {TENSORRT_TOP_K}; keep fewer, or use "
                "--target ort-cpu (with --plugin, a plan may then be built with the plugin's library)"
            )
        if target.name.startswith("ort") and precision not in RUNNABLE:
            raise UserError(
                f"--dtype {precision}: {target.name} computes in {' or '.join(RUNNABLE)}; leave --dtype out"
            )

    def _check_room(self) -> None:
        """A question about the pictures and its answer fit into the cache and the model's positions."""
        questions = [question.text for shown in pictures("general") for question in shown.questions]
        asked = check_prompt(self.checkpoint.dir, self.facts, questions, self.main.form.kind) + ANSWER
        if longest := max((each.tokens for each in self.prompts if each.whole), default=0):
            asked = max(asked, longest + ANSWER - self.images * self.tokens)
        need, limit = self.images * self.tokens + asked, self.facts.max_positions
        if need > limit:
            raise UserError(
                f"--keep {self.recipe.keep}, --images {self.images}: pictures and a question take {need} tokens, "
                f"the model allows {limit}: keep fewer"
            )
        if not need <= self.length <= limit:
            raise UserError(
                f"--max-length {self.length}: must lie between {need} (pictures and a question) and the model's {limit}"
            )
        if self.recipe.max_batch * self.length > LARGEST_CACHE:
            most = LARGEST_CACHE // self.length
            raise UserError(f"--max-batch {self.recipe.max_batch}: at most {most} where --max-length is {self.length}")

    @property
    def length(self) -> int:
        """Most cache slots of one sequence."""
        given = self.recipe.max_length
        return min(self.facts.max_positions, LONGEST) if given is None else given

    @property
    def images(self) -> int:
        """Pictures a prompt may hold where the decoder is cut."""
        return self.recipe.images

    @property
    def main(self) -> Planned:
        """The form whose figures tables show: the first."""
        return self.planned[0]

    @property
    def shape(self) -> Shape:
        """The main form's geometry."""
        return self.main.shape

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The main form's stages."""
        return self.main.stages

    @property
    def tokens(self) -> int:
        """Most rows that a picture takes in the prompt."""
        return max(each.tokens for each in self.planned)

    @property
    def positions(self) -> str:
        """How kept tokens are numbered."""
        return self.family.positions or self.reducer.entry

    @property
    def split(self) -> bool:
        """Whether the decoder is two parts."""
        return bool(self.prompts)

    @property
    def reads_pictures(self) -> bool:
        """Whether the model has eyes."""
        return self.main.form.kind != "text"

    @property
    def prunes(self) -> bool:
        """Whether anything is cut at all."""
        return any(self._all_stages) or bool(self.steps)

    @property
    def entry(self) -> Shape:
        """The geometry that the decoder's stages are planned for, of the longest prompt."""
        return self.shape.flat(self.prompts[-1].tokens if self.prompts else self.tokens)

    @property
    def steps(self) -> tuple[Stage, ...]:
        """The stages at every generated token."""
        return self.reducer.steps(self.entry, self.budget)

    @property
    def turns(self) -> tuple[Stage, ...]:
        """The stages between two turns of a conversation."""
        return self.reducer.turns(self.entry, self.budget)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """What lives from call to call."""
        return self.reducer.states(self.entry, self.budget)

    @property
    def budget(self) -> Budget:
        """As the user wrote it."""
        return budget_of(self.recipe)

    @property
    def precisions(self) -> tuple[Dtype, ...]:
        """Every precision a graph is traced in; fp32 always, because parity is proven in it."""
        return tuple(dict.fromkeys(("fp32", *(self.precision(t) for t in self._wanted))))

    def precision(self, target: Target) -> Dtype:
        """What one target computes in."""
        return self.recipe.dtype or self.recipe.later.get(target.name) or engine(target.name).dtype(self.stored)

    @property
    def _wanted(self) -> tuple[Target, ...]:
        """What engines are built for, now or later."""
        return (*self.targets, *map(Target, self.recipe.later))

    @property
    def _all_stages(self) -> list[tuple[Stage, ...]]:
        return [*(each.stages for each in self.planned), *(each.stages for each in self.prompts)]


def _planned(recipe: Recipe, reducer: Reducer, family: Family, folder: Path) -> Planned:
    """The plan for one form of picture."""
    shape = family.shape(recipe.images)
    stages = make_plan(recipe.method, reducer, shape, budget_of(recipe), reducer.picture_plan)
    added, rows = 0 if picture_cuts(stages) else family.added, shape.tokens + family.added
    prepared = family.preprocess(folder)
    placeholder = family.placeholder if family.widths.placeholders else None
    return Planned(family.form, shape, stages, prepared, placeholder, family.mrope, added, rows)
