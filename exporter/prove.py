"""Parity of an unpublished bundle: write the reference, run the engines, compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engines import parity
from engines.errors import UserError
from engines.glance import glance
from engines.parity import Case, Row, Run
from engines.prompt import Prompt
from engines.session import Session
from exporter.clip_aux import loaded
from exporter.draft import Draft
from exporter.eyes import eyes
from exporter.form import Kind
from exporter.pictures import Picture, animate
from exporter.progress import Reporter
from exporter.publish import place
from exporter.reference import Reference
from exporter.witness import Witness, save_reference


def write_cases(
    pictures: Sequence[Picture], questions: int, prompt: Prompt, kind: Kind, folder: Path, frames: int = 0
) -> list[Case]:
    """Put the pictures into the bundle, or videos made of them, and lay down what is asked of each.

    Where the method shares out tokens by the scores of so many `frames`, they are made up here: high ones and low ones.
    """
    folder.mkdir(parents=True)
    cases = []
    for number, picture in enumerate(pictures):
        if kind == "video":
            animate([shown.path for shown in (*pictures[number:], *pictures[:number])], folder / picture.path.name)
        else:
            place(picture.path, folder / picture.path.name)
        for question in picture.questions[:questions]:
            content = [{"type": kind}, {"type": "text", "text": question.text}]
            text = prompt.render([{"role": "user", "content": content}])
            case = Case(picture.path.name, question.text, text, prompt.encode(text), question.answer)
            scores = tuple(round(0.05 + 0.9 * ((3 * place + number) % frames) / frames, 3) for place in range(frames))
            cases.append(replace(case, frame_scores=scores or None))
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

    Sessions are named by their precision, and by their target if it is not ort-cpu ("fp32 ov-cpu"): such a one comes
    behind that of its precision, whose reference it shares.

    Returns:
        What parity.json says, and what the engines gave.

    Raises:
        UserError: a bound is missed, unless `accept`.
    """
    whole = draft.recipe.parity == "full"
    references = _references(draft, whole=whole)
    rows, runs = dict[str, list[Row]](), dict[str, Run]()
    for name, session in sessions.items():
        dtype, _, target = name.partition(" ")
        with report.step(f"compare {name} engines with PyTorch") as step:
            runs[name] = found = (parity.run if whole else glance)(session, cases, folder)
            if not target:
                groups = [layers.start for layers in session.contract.groups]
                witnesses = [Witness(draft, each, groups, dtype, speaks=whole) for each in references]
                save_reference(witnesses, cases, found, folder)
            rows[name] = parity.compare(found, parity.load(folder, dtype)[1], dtype)
            step.note = parity.verdict(rows[name])
    told = parity.told(rows, [dtype for dtype in draft.precisions if dtype not in sessions], draft.recipe.parity)
    if told["verdict"].endswith("fail") and not accept:
        raise _failure(rows)
    return told, runs


def _references(draft: Draft, *, whole: bool) -> list[Reference]:
    """The stock model, or its eyes alone, for each form of picture; in its own weights, whatever the engines use."""
    stock = draft.family.reference(draft.checkpoint.dir) if whole else eyes(draft)
    if draft.clip is not None:
        stock.add_module("clip", loaded(draft.config, draft.clip))
    return [
        Reference(
            draft.family(draft.config, stock, each.form),
            draft.reducer,
            each.stages,
            prompts=draft.prompts,
            steps=draft.steps,
            states=draft.states,
            images=draft.images,
        )
        for each in draft.planned
    ]


def _failure(rows: Mapping[str, Sequence[Row]]) -> UserError:
    """The first bound that was missed, in one line."""
    worst = next(row for each in rows.values() for row in each if not row.ok)
    return UserError(
        f"parity with PyTorch failed: {worst.level} of case {worst.case}: "
        f"{worst.what} {worst.value:.2e} > {worst.bound:.0e}"
        f" {worst.note}; nothing was published (--accept-parity publishes anyway)"
    )
