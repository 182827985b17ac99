"""Parity of an unpublished bundle: write the reference, run the engines, compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engines import parity
from engines.errors import UserError
from engines.parity import Case, Row, Run
from engines.prompt import Prompt
from engines.session import Session
from exporter.draft import Draft
from exporter.pictures import Picture
from exporter.progress import Reporter
from exporter.publish import place
from exporter.reducer import Stage
from exporter.reference import Reference, Sight

STEPS = 16


def write_cases(pictures: Sequence[Picture], questions: int, prompt: Prompt, folder: Path) -> list[Case]:
    """Copy the pictures into the bundle and lay down what is asked of each."""
    folder.mkdir(parents=True)
    cases = []
    for picture in pictures:
        place(picture.path, folder / picture.path.name)
        for question in picture.questions[:questions]:
            content = [{"type": "image"}, {"type": "text", "text": question.text}]
            text = prompt.render([{"role": "user", "content": content}])
            cases.append(Case(picture.path.name, question.text, text, prompt.encode(text), question.answer))
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases], indent=1))
    return cases


def prove(
    draft: Draft,
    sessions: Mapping[str, Session],
    cases: Sequence[Case],
    folder: Path,
    report: Reporter,
    *,
    accept: bool,
) -> tuple[dict[str, Any], dict[str, Run]]:
    """Compare engines of each precision with the reference; save the reference for later checks.

    Returns:
        What parity.json says, and what the engines gave.

    Raises:
        UserError: a bound is missed, unless `accept`.
    """
    reference = Reference.load(draft.family, draft.config, draft.checkpoint.dir, draft.reducer, draft.stages)
    rows, runs = dict[str, list[Row]](), dict[str, Run]()
    for dtype, session in sessions.items():
        with report.step(f"compare {dtype} engines with PyTorch") as step:
            runs[dtype] = found = parity.run(session, cases, folder, STEPS)
            _write_reference(draft, reference, found, cases, folder, dtype)
            rows[dtype] = parity.compare(found, parity.load(folder, dtype)[1], dtype)
            step.note = parity.verdict(rows[dtype])
    told = parity.told(rows)
    if told["verdict"] != "pass" and not accept:
        worst = next(row for each in rows.values() for row in each if not row.ok)
        raise UserError(
            f"parity with PyTorch failed: {worst.level} of case {worst.case}: "
            f"{worst.what} {worst.value:.2e} > {worst.bound:.0e}"
            f" {worst.note}; nothing was published (--accept-parity publishes anyway)"
        )
    return told, runs


def _write_reference(
    draft: Draft, reference: Reference, found: Run, cases: Sequence[Case], folder: Path, dtype: str
) -> None:
    """Save what the reference says to every case.

    16-bit engines may keep other tokens than fp32 where scores are close; the values behind them are then those of a
    reference that was given the engines' own indices.
    """
    tensors, sights = dict[str, torch.Tensor](), dict[str, Sight]()
    for number, case in enumerate(cases):
        pixels = draft.family.stock_pixels(draft.checkpoint.dir, folder / case.picture)
        free = sights.setdefault(case.picture, reference.see(pixels))
        forced = free if dtype == "fp32" else _forced(reference, pixels, free, found, number)
        tokens, logits = reference.generate(case.ids, [forced], STEPS, draft.facts.eos_token_ids)
        kept = reference.read(case.ids, [forced], []).kept
        tensors |= {f"{number}/{name}": value for name, value in _tensors(free, forced, tokens, logits, kept).items()}
    save_file(
        {name: value.clone().contiguous() for name, value in tensors.items()},
        folder / f"reference.{dtype}.safetensors",
    )


def _forced(reference: Reference, pixels: torch.Tensor, free: Sight, found: Run, number: int) -> Sight:
    """The reference once more, with the engines' indices where it is clear which cut they belong to."""
    cuts = [s for s in reference.stages if s.stack != "decoder" and s.keep is not None and not s.extra]
    kept = torch.from_numpy(found.kept[number])
    if len(cuts) != 1 or torch.equal(kept, free.kept):
        return free
    return replace(reference, forced={cuts[0]: kept[None]}).see(pixels)


def _tensors(
    free: Sight, forced: Sight, tokens: list[int], logits: torch.Tensor, cuts: Mapping[Stage, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What later checks compare with; decoder cuts are numbered as the engines number their layer groups."""
    found = {
        "free_kept": free.kept,
        "embeds": forced.embeds,
        "logits": logits,
        "tokens": torch.tensor(tokens),
    }
    last = next(reversed(free.scores.values()), None)
    if last is not None:
        found["scores"] = last[0]
    return found | {f"kept_indices.{number}": kept for number, kept in enumerate(cuts.values(), 1)}
