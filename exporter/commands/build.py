"""Engines for a bundle that is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from engines.errors import UserError
from engines.trt.jetson.boards import BOARDS, JETPACKS
from exporter.options import DTYPES, build_option

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=FILE, required=False)
@build_option("target", "targets", multiple=True)
@build_option("dtype", type=click.Choice(DTYPES), default=None)
@build_option("weights", type=click.Choice(["int8", "int4"]), default=None)
@build_option("max-batch", type=int, default=None)
@build_option("max-length", type=int, default=None)
@build_option("refittable", is_flag=True)
@build_option("version-compatible", is_flag=True)
@build_option("hardware-compatible", "hardware", type=click.Choice(["exact", "ampere+", "same-cc"]), default="exact")
@build_option("weight-streaming", is_flag=True)
@build_option("level", type=click.IntRange(0, 5), default=None)
@build_option("workspace", "workspace_mib", type=click.IntRange(1), default=None, metavar="MIB")
@build_option("plugin", type=FILE, default=None, metavar="LIBRARY")
@build_option("refit-from", type=FILE, default=None, metavar="BUNDLE")
@build_option("store", type=FILE, default=None, metavar="DIR")
@build_option("matrix", type=FILE, default=None, metavar="FILE.toml")
@build_option("output", "-o", type=FILE, default=None, metavar="DIR")
@build_option("jobs", type=click.IntRange(1), default=None)
@build_option("ray", default=None, metavar="ADDRESS")
@build_option("script", type=click.Choice(["jetson"]), default=None)
@build_option("jetpack", type=click.Choice(list(JETPACKS)), default="6.2", show_default=True)
@build_option("board", type=click.Choice(list(BOARDS)), default=None)
@click.pass_context
def build(context: click.Context, /, bundle: Path | None, plugin: Path | None, **options: Any) -> None:
    """Add engines to a bundle, on the machine that will run them: without PyTorch, and without exporting again.

    With --matrix: make all bundles and engines of a fleet that are missing. With --script: write what a board needs to
    build its engines itself.
    """
    device = {name: options.pop(name) for name in ("script", "jetpack", "board")}
    if device.pop("script"):
        _script(context, bundle, plugin, **device, **options)
        return
    if any(_given(context, each) for each in context.command.params if each.name in device):
        raise UserError("--jetpack and --board belong to --script jetson")
    fleet = {name: options.pop(name) for name in ("matrix", "output", "jobs", "ray")}
    if fleet["matrix"]:
        _fleet(context, **fleet, store=options["store"])
        return
    if bundle is None or not options["targets"] or any(fleet.values()):
        raise UserError("give a bundle and its --target, or --matrix FILE.toml and -o DIR")
    _add(bundle, plugin, **options)


def _add(bundle: Path, plugin: Path | None, **options: Any) -> None:
    from engines.settings import Settings
    from engines.summary import engines
    from engines.tables import print_tables
    from exporter.add_engines import Wish, add_engines

    names = options.keys() & Settings.__dataclass_fields__
    settings = Settings(**{name: options.pop(name) for name in names}, plugin=str(plugin) if plugin else None)
    added = add_engines(bundle, Wish(**options, settings=settings), console := Console())
    if added.built:
        print_tables([engines(added.contract, added.built)], console)
    for label in added.built:
        if added.contract["engines"][label]["weights"]:
            from exporter.weight_only import compare

            print_tables([compare(bundle, added.contract, label)], console)
    for label in added.kept:
        click.echo(f"{bundle}: {label} is there already, unchanged")
    for label in added.built:
        click.echo(f"{bundle}: {label} added")


def _script(
    context: click.Context, bundle: Path | None, plugin: Path | None, output: Path | None, **options: Any
) -> None:
    from engines.settings import Settings
    from exporter.jetson.folder import SCRIPT, write_jetson
    from exporter.jetson.parts import Wish

    strangers = {"targets", "hardware", "refit_from", "store", "matrix", "jobs", "ray"}
    if bundle is None or any(each.name in strangers and _given(context, each) for each in context.command.params):
        raise UserError("--script takes a bundle, what its plans are to be like, --jetpack, --board and -o DIR")
    kept = {name: value for name, value in options.items() if name not in strangers}
    names = kept.keys() & Settings.__dataclass_fields__
    settings = Settings(**{name: kept.pop(name) for name in names}, plugin=str(plugin) if plugin else None)
    folder = output or Path(f"{bundle.resolve().name}-jetpack-{kept['jetpack']}")
    write_jetson(bundle, folder, Wish(**kept, settings=settings))
    click.echo(f"{folder}: copy it to the board as its README.txt says, and run {SCRIPT} there")


def _fleet(
    context: click.Context, matrix: Path, output: Path | None, jobs: int | None, ray: str | None, store: Path | None
) -> None:
    from exporter.fleet.outcome import build_matrix

    given = [each.opts[0] for each in context.command.params if _given(context, each)]
    if strangers := [name for name in given if name not in ("--matrix", "--output", "--jobs", "--ray", "--store")]:
        raise UserError(f"--matrix: what is built stands in {matrix}; leave out {strangers[0]}")
    if output is None:
        raise UserError("--matrix: say with -o which directory gets the bundles")
    if not build_matrix(matrix, output, Console(), jobs, ray, store):
        sys.exit(1)


def _given(context: click.Context, option: click.Parameter) -> bool:
    """Whether a parameter was written on the command line."""
    return context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
