"""Engines against the saved PyTorch reference: kept indices, embeddings, logits, tokens. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from engines.errors import UserError
from engines.geometry import EMPTY
from engines.images import open_image
from engines.json_file import read_json
from engines.session import Session
from engines.videos import Picture, open_video

Array = NDArray[Any]
SHARED = 0.9  # of a decoder's kept tokens, less one, that 16-bit engines must share with the reference
LEFT_OUT = {"full": (), "vision": ("logits", "tokens"), "none": ("indices", "embeddings", "logits", "tokens")}
STEPS = 16  # tokens generated for each case, at most


@dataclass(frozen=True)
class Bounds:
    """What one precision must reach; None: told, not judged.

    `score`: how far from the score at rank K, in units of the mean score, a token may lie that was swapped over the
    edge; `values` and `logits`: largest difference over the root mean square of the reference.
    """

    score: float
    embeddings: float | None
    logits: float | None


BOUNDS = {"fp32": Bounds(0.0, 1e-4, 1e-3), "fp16": Bounds(5e-2, 3e-2, 8e-2)}


@dataclass(frozen=True)
class Case:
    """One picture (an image or a video; "": none) and one question, as asked of engines and reference."""

    picture: str
    question: str
    prompt: str
    ids: list[int]
    answer: str | None = None
    frame_scores: tuple[float, ...] | None = None  # for methods that share out tokens by them


@dataclass(frozen=True)
class Row:
    """One comparison of one case; `ok` is its verdict."""

    level: str
    case: int
    what: str
    value: float
    bound: float | None
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class Run:
    """What engines gave for all cases, in batches of prompts of different lengths."""

    forms: list[int]  # of each case's picture, 0 without one
    kept: list[Array]  # [K] each
    embeds: list[Array]  # [K,D] each
    logits: list[Array]  # [cases,V] each: behind the prompt, then behind every generated token
    tokens: list[list[int]]
    cuts: list[Mapping[str, Array]]  # kept_indices of decoder cuts, [I,K] each
    buckets: list[int]  # length of the prefill part where spans are prompts, else 0


def run(session: Session, cases: Sequence[Case], folder: Path) -> Run:
    """Play every case through the engines, as many at once as they take; right-padded, greedy."""
    most = session.contract.max_batch
    return _joined([_run(session, cases[at : at + most], folder) for at in range(0, len(cases), most)])


def _joined(runs: Sequence[Run]) -> Run:
    """Batches one after the other; of a batch that ended early nobody reads more steps than it has."""
    steps = max(len(each.logits) for each in runs)
    padded = [[*each.logits, *[np.zeros_like(each.logits[0])] * (steps - len(each.logits))] for each in runs]
    return Run(
        forms=[form for each in runs for form in each.forms],
        kept=[kept for each in runs for kept in each.kept],
        embeds=[embeds for each in runs for embeds in each.embeds],
        logits=[np.concatenate(step) for step in zip(*padded, strict=True)],
        tokens=[row for each in runs for row in each.tokens],
        cuts=[cuts for each in runs for cuts in each.cuts],
        buckets=[bucket for each in runs for bucket in each.buckets],
    )


def _run(session: Session, cases: Sequence[Case], folder: Path) -> Run:
    """One batch."""
    shown = [case for case in cases if case.picture]
    pictures = [opened(session, case, folder) for case in shown]
    seen = session.see(pictures, [case.ids for case in shown], [case.question for case in shown])
    session.reset(warmed=True)  # every case is an episode of its own
    state, logits = session.start([case.ids for case in cases], [len(case.picture[:1]) for case in cases], seen)
    bucket = state.rows if session.contract.split and session.contract.split.whole else 0
    nothing: dict[str, Any] = {"form": 0, "kept_indices": np.zeros(0, np.int64)}
    nothing["image_embeds"] = np.zeros((0, 1), np.float32)
    waiting = iter(seen)
    sights = [next(waiting) if case.picture else nothing for case in cases]
    cuts = {name: value for name, value in state.outputs.items() if name.startswith("kept_indices.")}
    stop, every, tokens = session.contract.eos, [logits], [list[int]() for _ in cases]
    while True:
        following = session.sayable(logits).argmax(-1)
        for row, token in zip(tokens, following.tolist(), strict=True):
            if not (row and row[-1] in stop):
                row.append(token)
        if len(every) == STEPS or all(row[-1] in stop for row in tokens):
            return Run(
                forms=[each["form"] for each in sights],
                kept=[each["kept_indices"] for each in sights],
                embeds=[each["image_embeds"].astype(np.float32) for each in sights],
                logits=[step.astype(np.float32) for step in every],
                tokens=tokens,
                cuts=[{name: value[row] for name, value in cuts.items()} for row in range(len(cases))],
                buckets=[bucket] * len(cases),
            )
        logits = session.extend(state, following[:, None].tolist())
        every.append(logits)


def opened(session: Session, case: Case, folder: Path) -> Picture:
    """A case's picture: a video where the prompt has a video's token."""
    kinds = {form.token_id: form.kind for form in session.contract.geometry.forms}
    video = any(kinds.get(token) == "video" for token in case.ids)
    if not video:
        return open_image(folder / case.picture)
    scores = None if case.frame_scores is None else tuple(case.frame_scores)
    return replace(open_video(folder / case.picture), scores=scores)


def compare(found: Run, wanted: Sequence[Mapping[str, Array]], dtype: str) -> list[Row]:
    """All levels of all cases against the reference tensors of `load`."""
    rows = []
    for number, reference in enumerate(wanted):
        bounds = BOUNDS[dtype]
        if not reference["comparable"] or _parted(found, number, reference, bounds):
            bounds = Bounds(bounds.score, None, None)  # other tokens were kept or merged, which makes other values
        rows += _indices(found, number, reference, bounds)
        full = found.kept[number] != EMPTY  # nobody reads what is in an empty slot
        if full.size:
            pair = found.embeds[number][full], reference["embeds"][full]
            rows.append(_values("embeddings", number, *pair, bounds.embeddings))
        if found.logits:
            got, want = _same_steps(found, number, reference)
            rows.append(_values("logits", number, got, want, bounds.logits))
            rows.append(_tokens(found.tokens[number], number, reference, bounds.logits))
    return rows


def _indices(found: Run, number: int, reference: Mapping[str, Array], bounds: Bounds) -> list[Row]:
    """Equal, or swapped only where scores are too close for the precision to tell apart."""
    pairs = {"": (found.kept[number], reference["free_kept"])}
    # a prompt with fewer pictures than the engines have spans for: dummies come last
    cuts = found.cuts[number].items()
    pairs |= {name: (value[: len(reference[name])], reference[name]) for name, value in cuts}
    rows = []
    for name, (got, want) in pairs.items():
        if not want.size and not got.size:  # a prompt without pictures
            continue
        exact, worst = bool(np.array_equal(got, want)), 0.0
        note = f"{want.size if exact else np.intersect1d(got, want).size} of {want.size}"
        if not exact and name == "" and "scores" in reference:
            scores, mean = reference["scores"], float(reference["scores"].mean())
            edge = float(np.sort(scores)[::-1][want.size - 1])
            swapped = np.setxor1d(got, want)
            worst = float(np.abs(scores[swapped] - edge).max() / mean)
            note += f", swapped within {worst:.1e} of the edge"
        if name:  # a cut in the decoder: 16 bits may swap a few tokens whose scores are close
            shared = np.intersect1d(got, want).size >= SHARED * want.size - 1
            ok = exact or (bounds.score > 0 and (shared or not reference["comparable"]))
        else:
            ok = exact or (bounds.score > 0 and worst <= bounds.score)
        rows.append(Row("indices", number, "equal" + name.removeprefix("kept_indices"), worst, bounds.score, ok, note))
    return rows


def _parted(found: Run, number: int, reference: Mapping[str, Array], bounds: Bounds) -> bool:
    """Whether 16-bit engines kept other tokens in the decoder than the reference did."""
    cuts = found.cuts[number].items()
    return bounds.score > 0 and any(not np.array_equal(v[: len(reference[n])], reference[n]) for n, v in cuts)


def _values(level: str, number: int, got: Array, want: Array, bound: float | None) -> Row:
    scale = float(np.sqrt(np.mean(np.square(want, dtype=np.float64)))) or 1.0
    worst = float(np.abs(got - want).max()) / scale
    return Row(level, number, "max diff / rms", worst, bound, ok=bound is None or bool(worst <= bound))


def _same_steps(found: Run, number: int, reference: Mapping[str, Array]) -> tuple[Array, Array]:
    """Logits `[steps,V]` of both sides, as long as both had read the same tokens."""
    pairs = zip(found.tokens[number], reference["tokens"].tolist(), strict=False)
    equal = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    steps = (min(len(found.tokens[number]), len(reference["tokens"])) - 1 if equal is None else equal) + 1
    return np.stack([step[number] for step in found.logits[:steps]]), reference["logits"][:steps]


def _tokens(got: list[int], number: int, reference: Mapping[str, Array], bound: float | None) -> Row:
    """Equal up to the end, or up to a step where the reference's two best logits are closer than the bound."""
    want = reference["tokens"].tolist()
    first = next((i for i, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), None)
    if first is None and len(got) == len(want):
        return Row("tokens", number, "equal", 0.0, bound, ok=True, note=f"{len(want)} of {len(want)}")
    step = min(len(got), len(want)) - 1 if first is None else first
    logits = reference["logits"][step]
    best = np.sort(logits)[::-1]
    margin = float((best[0] - best[1]) / np.sqrt(np.mean(np.square(logits, dtype=np.float64))))
    return Row(
        "tokens",
        number,
        "margin where they part",
        margin,
        bound,
        ok=bound is None or margin <= bound,
        note=f"{step} of {len(want)}",
    )


def load(folder: Path, dtype: str) -> tuple[list[Case], list[dict[str, Array]]]:
    """The saved cases and the reference of one precision.

    Raises:
        UserError: a file is damaged, or names a picture that is not beside it.
    """
    cases = [Case(**case) for case in read_json(folder / "cases.json")]
    for case in cases:
        if Path(case.picture).name != case.picture:
            raise UserError(f"{folder / 'cases.json'}: '{case.picture}' is not the name of a picture beside it")
    path = folder / f"reference.{dtype}.safetensors"
    try:
        flat = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); export the bundle again") from None
    per_case = [{k.split("/", 1)[1]: v for k, v in flat.items() if k.startswith(f"{n}/")} for n in range(len(cases))]
    return cases, per_case


def verdict(rows: Sequence[Row]) -> str:
    """`pass` if every row is."""
    return "pass" if all(row.ok for row in rows) else "fail"


def told(rows: Mapping[str, Sequence[Row]], unproven: Sequence[str] = (), mode: str = "full") -> dict[str, Any]:
    """parity.json: the worst case of each level and session, every case behind it, one verdict.

    `unproven` precisions were built but cannot be run on this machine, and a `mode` ("vision", "none") leaves levels
    out; the table says so, and the verdict: pass, fail, vision pass, vision fail, not compared.
    """
    shown: list[dict[str, Any]] = []
    for name, each in rows.items():
        dtype, _, target = name.partition(" ")
        for level, what in dict.fromkeys((row.level, row.what) for row in each):
            same = [row for row in each if (row.level, row.what) == (level, what)]
            worst = max(same, key=lambda row: (not row.ok, row.value))
            shown.append({
                "level": level,
                "dtype": dtype,
                "engine": target or "ort-cpu",
                "what": what,
                "value": worst.note or worst.value,
                "threshold": "told" if worst.bound is None else worst.bound,
                "verdict": f"{verdict(same)} {sum(row.ok for row in same)}/{len(same)}",
            })  # fmt: skip
    for dtype in unproven:
        empty = dict.fromkeys(("level", "engine", "value", "threshold"), "-")
        shown.append({**empty, "dtype": dtype, "what": "no CPU kernels to run it", "verdict": "not run"})
    for level in LEFT_OUT[mode]:
        empty = dict.fromkeys(("dtype", "engine", "value", "threshold"), "-")
        shown.append({**empty, "level": level, "what": f"--parity {mode}", "verdict": "not compared"})
    every = verdict([row for each in rows.values() for row in each])
    return {
        "verdict": {"full": every, "vision": f"vision {every}", "none": "not compared"}[mode],
        "rows": shown,
        "cases": {name: [asdict(row) for row in each] for name, each in rows.items()},
    }
