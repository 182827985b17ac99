"""bundle.json: what a stranger's runtime must know, from what the export knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from torch import nn

from engines.bundle import FORMAT
from engines.flops import Geometry
from engines.profiles import Limits
from exporter import __version__
from exporter.build_parts import VERSIONS, Built
from exporter.draft import Draft, Planned
from exporter.reducer import StateSpec


def contract(draft: Draft, parts: Mapping[str, Mapping[str, Built]]) -> dict[str, Any]:
    """Everything but engines, the files' hashes and the parity verdict; `parts` by precision, then by name."""
    traced = parts["fp32"]
    return {
        "format": FORMAT,
        "tp_export": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": asdict(draft.recipe),
        "limits": asdict(_limits(draft, traced)),
        "model": {"name": draft.recipe.model, "dtype": draft.stored, **asdict(draft.facts)},
        "geometry": asdict(geometry(draft, draft.main.projected)),
        "plan": [asdict(stage) for stage in (draft.prompts[-1].stages if draft.reducer.prompt else draft.stages)],
        "pictures": [_picture(each) for each in draft.planned if draft.reads_pictures],
        "positions": "renumber" if draft.positions == "slot" else draft.positions,
        "parts": {name: _part(name, parts) for name in traced},
        "groups": groups(traced, draft),
        "ran": ran(traced, draft),
        "prefill": [{"part": p.part, "tokens": p.tokens, "whole": p.whole} for p in draft.prompts],
        "states": [_state(spec, draft.recipe.indices) for spec in draft.states],
        "warm_up": draft.reducer.warm_up if len(draft.prompts) > 1 and not draft.prompts[0].whole else 0,
        "slot_positions": draft.split and draft.reducer.positions == "slot",
        "kv": {"form": draft.recipe.kv, "capacity": traced["decode"].facts.get("capacity", []) if draft.split else []},
        "evict": {"above": traced["evict"].facts["above"]} if "evict" in traced else None,
        "engines": {},
        "versions": {package: version(package) for package in VERSIONS},
    }


def geometry(draft: Draft, tokens: int) -> Geometry:
    """The model's sizes for cost tables, with `tokens` rows of an image through the projector."""
    return draft.family(draft.config, nn.Module(), draft.main.form).geometry(tokens)


def _limits(draft: Draft, traced: Mapping[str, Built]) -> Limits:
    """The most that engines may take; builders make their profiles of it."""
    fixed = max([0, *(each["fixed"] or 0 for each in groups(traced, draft))])
    return Limits(draft.recipe.max_batch, draft.length, draft.tokens, draft.images, fixed)


def _picture(planned: Planned) -> dict[str, Any]:
    """One form of picture, for the runtime."""
    form, shape = planned.form, planned.shape
    return {
        "part": form.part,
        "kind": form.kind,
        "token_id": planned.placeholder,
        "views": form.views,
        "grid": list(shape.grid),
        "tokens": planned.tokens,
        "patches": planned.rows,
        "mrope": planned.mrope,
        "preprocess": dict(planned.preprocess),
    }


def groups(traced: Mapping[str, Built], draft: Draft) -> list[dict[str, Any]]:
    """Decoder layers of equal cache length, and how many rows of one image are in it."""
    if not draft.split:
        return [{"layers": [0, draft.facts.layers], "tokens": draft.tokens, "fixed": None}]
    found = traced[draft.prompts[-1].part].facts["groups"]
    kinds = ("tokens", "fixed")
    return [{"layers": [each["first"], each["end"]], **{kind: each[kind] for kind in kinds}} for each in found]


def ran(traced: Mapping[str, Built], draft: Draft) -> list[int]:
    """Rows of one image, or of the longest prompt, that each layer computes."""
    if not draft.split:
        return [draft.tokens] * draft.facts.layers
    return list(traced[draft.prompts[-1].part].facts["ran"])


def _state(spec: StateSpec, indices: str) -> dict[str, Any]:
    """As its ports say it."""
    return {**asdict(spec), "dtype": indices if spec.dtype == "int64" else spec.dtype}


def _part(name: str, parts: Mapping[str, Mapping[str, Built]]) -> dict[str, Any]:
    built = parts["fp32"][name]
    files = {dtype: f"onnx/{name}.{dtype}.onnx" for dtype in parts}
    ports = {
        "inputs": [asdict(port) for port in built.inputs],
        "outputs": [asdict(port) for port in built.outputs],
    }
    nodes = {"nodes": built.node_count, "traced_nodes": built.facts["traced_nodes"], "operators": dict(built.nodes)}
    marked = {dtype: f"onnx/{name}.{dtype}.plugin.onnx" for dtype, made in parts.items() if made[name].plugin}
    return {**ports, "files": files, "plugin_files": marked, **nodes, "passes": list(built.passes)}
