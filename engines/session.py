"""Prompts and pictures in, logits and tokens out: the parts of a bundle played together."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines import contract as facts
from engines.bundle import open_bundle
from engines.decoder import Decoder, Tokens
from engines.geometry import Ints
from engines.kv import State
from engines.memory import check_fits
from engines.parts import Parts
from engines.prompt import Prompt
from engines.registry import Runner, engine
from engines.sampling import PickTokens, Sampler
from engines.sight import Sight
from engines.targets import check_here, engine_entry, engine_files, is_graphs
from engines.videos import Picture

FINISHED = -1
Pictures = Sequence[Sequence[Picture]]
Memory = Literal["fast", "low", "auto"]


class Session:
    """The parts of one bundle, ready to run.

    Args:
        contract: bundle.json's content.
        parts: One callable per part, named as in the contract.
        prompt: The bundle's template and tokenizers.
        dtype: The precision of the parts' floats, "fp32", "fp16" or "bf16".
        entry: What bundle.json says of the engines, where they take less than the graphs.

    Raises:
        UserError: The contract, the parts or the precision do not fit together.
    """

    def __init__(
        self,
        contract: Mapping[str, Any],
        parts: Mapping[str, Runner],
        prompt: Prompt,
        dtype: str = "fp32",
        entry: Mapping[str, Any] | None = None,
    ) -> None:
        self.contract = facts.parse(contract) if entry is None else facts.parse(contract).narrowed(entry)
        self.prompt = prompt
        runners = Parts(self.contract, parts, dtype)
        self._decoder = Decoder(runners)
        self.see = Sight(runners, prompt).see
        self.start, self.extend, self.reset = self._decoder.start, self._decoder.extend, self._decoder.reset

    @classmethod
    def open(
        cls, bundle: str | Path, target: str = "ort-cpu", dtype: str | None = None, memory: Memory = "auto"
    ) -> "Session":
        """Loads a bundle's engines of one target.

        Args:
            bundle: The directory that an export left.
            target: A label of the bundle's engines, or a target's name if that is enough.
            dtype: The precision; the target's own if not given.
            memory: "low" leaves weights on the disk and reads them at every step; "auto" is "fast" if that fits.

        Raises:
            UserError: The bundle is damaged, has no such engines, or they do not fit this machine or its memory.
        """
        opened = open_bundle(Path(bundle))
        contract = facts.parse(opened.contract)
        prompt = Prompt.of(opened.dir, contract.geometry)
        dtype, files = engine_files(opened.contract, target, dtype)
        entry = engine_entry(opened.contract, target)
        backend = engine(entry["target"])
        check_here(backend, entry)
        paths = {part: opened.dir / name for part, name in files.items()}
        if memory == "auto" and backend.extension == ".onnx":
            check_fits(opened.dir / "onnx", contract, f"running {bundle} with {target}")
        parts = {part: backend.load(path, low=memory == "low") for part, path in paths.items()}
        return cls(opened.contract, parts, prompt, dtype, None if is_graphs(entry["target"]) else entry)

    def prefill(self, prompts: Tokens, pictures: Pictures) -> tuple[State, NDArray[Any]]:
        """Encodes the pictures of each prompt and starts a batch of sequences; see `Decoder.start`."""
        standing = [prompt for prompt, row in zip(prompts, pictures, strict=True) for _ in row]
        seen = self.see([picture for row in pictures for picture in row], standing)
        return self.start(prompts, [len(row) for row in pictures], seen)

    def step(self, state: State, tokens: Ints) -> NDArray[Any]:
        """Feeds one token [B] to each sequence; see `extend`."""
        return self.extend(state, tokens[:, None].tolist())

    def stream(
        self,
        state: State,
        logits: NDArray[Any],
        max_new_tokens: int,
        sampler: PickTokens | None = None,
        stop_ids: Sequence[int] | None = None,
    ) -> Iterator[Ints]:
        """Generates tokens until every sequence has stopped, or the cache is full.

        Args:
            state: The cache, from `prefill` or `extend`; the last tokens that are yielded are never fed.
            logits: What it returned.
            max_new_tokens: Most tokens to generate.
            sampler: Picks tokens; greedy if not given.
            stop_ids: Tokens that end a sequence; the model's if not given.

        Yields:
            [B] int64 tokens, FINISHED for sequences that have stopped.
        """
        pick = sampler or Sampler()
        stops = self.contract.eos if stop_ids is None else stop_ids
        running = np.ones(len(logits), bool)
        for left in range(max_new_tokens, 0, -1):
            tokens = pick(self.sayable(logits))
            yield np.where(running, tokens, FINISHED)
            running &= ~np.isin(tokens, list(stops))
            if left == 1 or not running.any() or self._decoder.room(state.slots, state.positions) < 1:
                return
            logits = self.step(state, tokens)

    def generate(
        self,
        prompts: Tokens,
        pictures: Pictures,
        max_new_tokens: int,
        sampler: PickTokens | None = None,
        stop_ids: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Generates an answer to each prompt: token ids up to and with the one that stopped it."""
        state, logits = self.prefill(prompts, pictures)
        steps = list(self.stream(state, logits, max_new_tokens, sampler, stop_ids))
        return [[int(step[b]) for step in steps if step[b] != FINISHED] for b in range(len(prompts))]

    def sayable(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Rules out the placeholders, which stand for pictures that there are not."""
        logits = logits.copy()
        logits[:, list(self.contract.geometry.placeholders)] = -np.inf
        return logits
