"""A directory from which a Jetson board builds a bundle's plans: graphs its TensorRT reads, a script, and a README."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines import contract as facts
from engines.bundle import hash_file, open_bundle
from engines.errors import UserError
from engines.profiles import Limits
from engines.trt.jetson.boards import JETPACKS, Board, board_for
from engines.trt.jetson.commands import arguments, command
from engines.trt.jetson.needs import GIB, Needs
from engines.trt.jetson.readme import readme
from engines.trt.jetson.script import script
from engines.units import size
from exporter import __version__
from exporter.graph_choice import GRAPHS
from exporter.jetson.parts import Wish, Yard, precision
from exporter.publish import staging
from plugins.library import NAME as LIBRARY

SCRIPT = "build_on_device.sh"
WORKSPACE = 2048  # MiB
ARM = 183  # e_machine of a library for these boards


def write_jetson(bundle: Path, out: Path, wish: Wish) -> Path:
    """Write the directory, whole or not at all.

    Args:
        bundle: what is to run on the board.
        out: the directory; it must not be there.
        wish: for which board, and how.

    Returns:
        The script's path.

    Raises:
        UserError: The bundle has no such graphs, the release's TensorRT refuses one (a line for each part), or the
            board's memory is too small for the weights.
    """
    contract, jetpack = open_bundle(bundle).contract, JETPACKS[wish.jetpack]
    board = board_for(jetpack, wish.board)
    dtype = wish.dtype or precision(contract)
    limits = facts.parse(contract).limits.within(wish.max_batch, wish.max_length)
    yard = Yard(bundle, contract, jetpack, board.sm if board else min(jetpack.generations), wish)
    with staging(out, force=False) as tmp:
        (tmp / GRAPHS).mkdir()
        for name in contract["parts"]:
            yard.add(name, dtype, limits, tmp)
        if yard.refused:
            raise UserError("\n".join(yard.refused))
        _finish(yard, limits, board, bundle, out, tmp)
    return out / SCRIPT


def _finish(yard: Yard, limits: Limits, board: Board | None, bundle: Path, out: Path, tmp: Path) -> None:
    """Script, hashes, README and the plugin's library."""
    settings = yard.wish.settings
    if settings.plugin:
        yard.files[LIBRARY] = _library(Path(settings.plugin), tmp)
    needs = Needs(yard.weights, _cache(yard.contract, limits), settings.workspace_mib or WORKSPACE)
    if board and needs.running > board.memory * GIB:
        raise UserError(
            f"{bundle} takes about {size(needs.running)} to run, and {board.name} has {board.memory} GiB: "
            "export a smaller model or --max-length, or take --weights int4"
        )
    commands = [command(part, arguments(part, yard.jetpack.version, settings, needs.workspace)) for part in yard.parts]
    (tmp / SCRIPT).write_text(script(bundle.name, yard.jetpack, commands, __version__), encoding="utf-8")
    (tmp / SCRIPT).chmod(0o755)
    hashes = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(yard.files.items()))
    (tmp / "SHA256SUMS").write_text(hashes, encoding="utf-8")
    text = readme(str(bundle), str(out), yard.jetpack, yard.parts, yard.shards, needs)
    (tmp / "README.txt").write_text(text, encoding="utf-8")


def _cache(contract: Mapping[str, Any], limits: Limits) -> int:
    """Bytes of every layer's keys and values, 16 bits each, at full length; what a method cuts is not deducted."""
    model = contract["model"]
    return int(2 * 2 * model["layers"] * model["kv_heads"] * model["head_dim"] * limits.length * limits.batch)


def _library(library: Path, tmp: Path) -> str:
    """The plugin's library beside the script; returns its sha256."""
    if not library.is_file():
        raise UserError(f"--plugin {library}: no such file")
    with library.open("rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") != ARM:
        raise UserError(f"--plugin {library}: not a library for aarch64; build it on the board, or cross-compile it")
    shutil.copyfile(library, tmp / LIBRARY)
    return hash_file(tmp / LIBRARY)
