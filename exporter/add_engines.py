"""Engines added to a bundle on the machine that will run it: no checkpoint, no PyTorch, no second export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from engines import contract as facts
from engines.bundle import open_bundle
from engines.checkup import mode
from engines.errors import UserError
from engines.graph_engine import RUNNABLE
from engines.registry import Dtype, Target, engine, parse_targets
from engines.settings import PLAIN, Settings
from engines.targets import check_settings, is_graphs
from exporter.build_engines import Yard
from exporter.in_place import put, renewed, staging
from exporter.orders import Bits, Order, Work
from exporter.progress import Reporter
from exporter.refit import TARGET, Refit


@dataclass(frozen=True)
class Wish:
    """What is to be added.

    Attributes:
        targets: as the user wrote them.
        dtype: precision of all; None: each target's own.
        weights: bits of the weights, where they are to be fewer.
        settings: what builders are told beyond the target.
        max_batch: largest batch; None: the bundle's.
        max_length: most slots of a cache; None: the bundle's.
        store: where engines are kept and found; None: in the cache.
        refit_from: a bundle whose plans get this bundle's weights; None: plans are built.
    """

    targets: Sequence[str]
    dtype: Dtype | None = None
    weights: Bits | None = None
    settings: Settings = PLAIN
    max_batch: int | None = None
    max_length: int | None = None
    store: Path | None = None
    refit_from: Path | None = None


@dataclass
class Added:
    """What bundle.json says now, and which engines were built and which were there already, by label."""

    contract: Mapping[str, Any]
    built: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def add_engines(path: Path, wish: Wish, console: Console) -> Added:
    """Builds engines for a bundle, one target after the other; each is in the bundle as soon as it is complete.

    Args:
        path: the bundle; it stays whole, whatever happens.
        wish: what to build.
        console: gets the progress.

    Raises:
        UserError: a mistake in the wish, a bundle that is damaged or cannot be written, or a builder that refused.
    """
    bundle = open_bundle(path)
    limits = facts.parse(bundle.contract).limits.within(wish.max_batch, wish.max_length)
    orders = [_order(wish, target, bundle.contract) for target in parse_targets(wish.targets)]
    steps = len(orders) * (len(bundle.contract["parts"]) + bool(wish.weights))
    with staging(path) as tmp, Reporter(console, steps) as report:
        added = Added(renewed(path, bundle.contract))
        light = mode(bundle) != "full"
        yard = Yard(path, added.contract, limits, dict(added.contract["files"]), tmp, _folder(wish.store), light)
        for order in orders:
            _add(added, yard, order, report)
    return added


def _order(wish: Wish, target: Target, contract: Mapping[str, Any]) -> Order:
    stored: Dtype = contract["model"]["dtype"]
    dtype = wish.dtype or engine(target.name).dtype(stored)
    if is_graphs(target.name) and dtype not in RUNNABLE:
        raise UserError(f"--dtype {dtype}: {target.name} computes in {' or '.join(RUNNABLE)}; leave --dtype out")
    if (library := wish.settings.plugin) and not Path(library).is_file():
        raise UserError(f"--plugin {library}: no such file")
    check_settings(target.name, wish.settings)
    order = Order(target, dtype, wish.weights, wish.settings)
    if wish.refit_from is None:
        return order
    if target.name != TARGET:
        raise UserError(f"--refit-from {wish.refit_from}: engines of {target.name} keep their weights; drop it")
    if wish.settings != PLAIN:
        raise UserError(f"--refit-from {wish.refit_from}: the plan stays as it was built; drop what else is set")
    refit = Refit.of(wish.refit_from, order.label)
    return replace(order, settings=refit.settings, refit=refit)


def _add(added: Added, yard: Yard, order: Order, report: Reporter) -> None:
    works = _survey(yard, order, report)
    try:
        if _keys(added.contract, order) == {work.part: work.identity for work in works}:
            added.kept.append(order.label)
            return
        entry = yard.build(order, works, report)
        added.contract = put(yard.root, yard.out, order, entry, works, yard.records)
        added.built.append(order.label)
    finally:
        for work in works:
            work.graph.drop(yard.root)


def _survey(yard: Yard, order: Order, report: Reporter) -> list[Work]:
    """What there is to do, which is known at once unless weights are to be written for it."""
    if not order.weights:
        return yard.survey(order)
    with report.step(f"weights in {order.weights}") as step:
        return yard.survey(order, step)


def _keys(contract: Mapping[str, Any], order: Order) -> object:
    """What the engines of that name that are there were made from."""
    return contract["engines"].get(order.label, {}).get("keys")


def _folder(store: Path | None) -> Path | None:
    """Where engines are kept, as an absolute path.

    Raises:
        UserError: it is no directory, and cannot become one.
    """
    if store is None:
        return None
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--store {store}: {error.strerror}; give a directory") from error
    return store.absolute()
