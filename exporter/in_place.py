"""Engines put into a bundle that is published already: whatever dies in between, it is whole."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.bundle import CONTRACT, contract_hash, open_bundle
from engines.errors import UserError
from exporter.disk import full_disk_in_words, sync, sync_tree
from exporter.graph_choice import GRAPHS, PENDING
from exporter.orders import Entry, Order, Work
from exporter.publish import Records, alive, record

STAGE = ".build-"
ENGINES = "engines"


@contextmanager
def staging(bundle: Path) -> Iterator[Path]:
    """An empty directory in a bundle, gone in the end; what killed builds left there is removed first.

    Raises:
        UserError: the bundle cannot be written, or the disk is full.
    """
    for folder in (bundle, bundle / GRAPHS, bundle / ENGINES):
        if folder.is_symlink() and folder != bundle:
            raise UserError(f"{folder} is a symbolic link; bundles hold plain folders only")
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder} may not be written: copy the bundle to a place of your own and build there")
    _tidy(bundle)
    tmp = bundle / f"{STAGE}{os.getpid()}"
    with full_disk_in_words(bundle):
        try:
            tmp.mkdir()
            yield tmp
        finally:
            shutil.rmtree(tmp, ignore_errors=True)


def put(bundle: Path, tmp: Path, order: Order, entry: Entry, works: Sequence[Work], records: Records) -> dict[str, Any]:
    """Publishes the engines of an order that lie in `tmp`; returns what bundle.json says then.

    An engine of that name that is there leaves bundle.json first, then its files; so each moment's bundle.json is true.
    """
    with _alone(bundle):
        contract = open_bundle(bundle).contract
        if order.label in contract["engines"]:
            before = contract["files"].keys()
            contract = write_contract(bundle, _without(contract, order))
            for name in before - contract["files"].keys():
                (bundle / name).unlink()
        _move(tmp / order.folder, bundle / order.folder)
        for work in works:
            work.graph.settle(bundle)
        engines = {**contract["engines"], order.label: entry}
        files = {**contract["files"], **_graphs(bundle, works, contract["files"])}
        files |= {name: found for name, found in records.items() if name.startswith(f"{order.folder}/")}
        return write_contract(bundle, {**contract, "engines": engines, "files": files})


def write_contract(bundle: Path, contract: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces bundle.json in one step; returns what it says."""
    sealed = {**contract, "sha256": contract_hash(contract)}
    partial = bundle / f".{CONTRACT}.{os.getpid()}"
    try:
        partial.write_text(json.dumps(sealed, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        sync(partial)
        partial.replace(bundle / CONTRACT)
    finally:
        partial.unlink(missing_ok=True)
    sync(bundle)
    return sealed


def renewed(bundle: Path, contract: dict[str, Any]) -> dict[str, Any]:
    """The contract of a bundle just opened, with its files' times: a copy is hashed once, and then no more."""
    files = {name: record(bundle / name, found["sha256"]) for name, found in contract["files"].items()}
    if files == contract["files"]:
        return contract
    with _alone(bundle):
        return write_contract(bundle, {**contract, "files": files})


def _move(new: Path, old: Path) -> None:
    """Puts a finished folder where bundle.json does not look yet; engines that are graphs have none."""
    shutil.rmtree(old, ignore_errors=True)
    if new.is_dir():
        sync_tree(new)
        old.parent.mkdir(exist_ok=True)
        new.rename(old)
        sync(old.parent)


def _without(contract: Mapping[str, Any], order: Order) -> dict[str, Any]:
    """The contract without an engine and the files that are its own."""
    own = (f"{order.folder}/", f".{order.label}.onnx")
    files = {n: found for n, found in contract["files"].items() if not n.startswith(own[0]) and not n.endswith(own[1])}
    engines = {label: entry for label, entry in contract["engines"].items() if label != order.label}
    return {**contract, "engines": engines, "files": files}


def _graphs(bundle: Path, works: Sequence[Work], known: Mapping[str, Any]) -> Records:
    """Records of graphs and weights that bundle.json does not know, or not as they are now."""
    hashes = {work.graph.name: work.key["graph"] for work in works}
    for work in works:
        hashes |= work.key["weights"]
    fresh = {name: sha256 for name, sha256 in hashes.items() if known.get(name, {}).get("sha256") != sha256}
    return {name: record(bundle / name, sha256) for name, sha256 in fresh.items()}


@contextmanager
def _alone(bundle: Path) -> Iterator[None]:
    """One process at a time changes a bundle."""
    handle = os.open(bundle, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _tidy(bundle: Path) -> None:
    """Removes what killed builds left."""
    for left in [*bundle.glob(f"{STAGE}*"), *(bundle / GRAPHS).glob(f"{PENDING}*"), *bundle.glob(f".{CONTRACT}.*")]:
        pid = left.name.removeprefix(STAGE).removeprefix(PENDING).removeprefix(f".{CONTRACT}.").partition(".")[0]
        if alive(pid):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
