"""The command line: parses, calls the library, prints."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from rich.console import Console

from engines.errors import UserError
from exporter import __version__, commands
from exporter.extras import require_export
from exporter.last_words import last_words
from exporter.options import DTYPES, numbers, option, pairs


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tp-export")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
@option("model", default="demo", show_default=True)
@option("method", default=None)
@option("keep", default=None)
@option("param", "params", multiple=True, metavar="NAME=VALUE")
@option("input", type=click.Choice(["image", "video"]), default=None)
@option("grid", "grids", multiple=True, metavar="RxC")
@option("image-size", metavar="WxH", default=None)
@option("frames", type=int, default=None)
@option("aux", multiple=True, metavar="NAME=PATH")
@option("buckets", metavar="N,N,…", default=None)
@option("kv", type=click.Choice(["growing", "static"]), default="growing", show_default=True)
@option("opset", type=click.Choice(["20", "23", "24"]), default="23", show_default=True)
@option("indices", type=click.Choice(["int64", "int32"]), default="int64", show_default=True)
@option("weights", type=click.Choice(["copy", "link"]), default="copy", show_default=True)
@option("plugin", is_flag=True)
@option("target", "targets", multiple=True, default=("auto",), show_default=True)
@option("dtype", type=click.Choice(DTYPES), default=None)
@option("output", "-o", type=click.Path(path_type=Path), default=None)
@option("force", is_flag=True)
@option("max-batch", type=int, default=4, show_default=True)
@option("max-length", type=int, default=None)
@option("images", type=int, default=1, show_default=True)
@option("gpu", default="h200", show_default=True)
@option("parity", type=click.Choice(["full", "vision", "none"]), default="full", show_default=True)
@option("accept-parity", is_flag=True)
@click.pass_context
def tp_export(context: click.Context, /, debug: bool, **options: Any) -> None:
    """Compile visual token pruning into static inference engines.

    Without a command it exports: --method and --keep say what, and a bundle of verified engines is left.
    """
    context.obj = debug
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in options and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given and context.invoked_subcommand is not None:
        raise UserError(f"{given[0]} belongs to an export: write the options of {context.invoked_subcommand} behind it")
    if given and options["method"] is None:
        raise UserError("--method is missing: say how tokens are selected (tp-export methods lists all)")
    if given:
        _export(**options)
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


def _export(
    output: Path | None,
    force: bool,
    accept_parity: bool,
    params: tuple[str, ...],
    aux: tuple[str, ...],
    buckets: str | None,
    opset: str,
    **options: Any,
) -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    require_export("exporting")
    from engines.summary import summary
    from engines.tables import print_tables
    from exporter.export import export
    from exporter.recipe import Recipe

    recipe = Recipe(
        **options,
        params=pairs("--param", "VALUE", params),
        aux=pairs("--aux", "PATH", aux),
        buckets=numbers("--buckets", buckets),
        opset=int(opset),
    )
    console = Console()
    outcome = export(recipe, output or Path(recipe.name), console, force=force, accept=accept_parity)
    console.print()
    print_tables(summary(outcome.contract, outcome.parity), console)
    place = str(outcome.path)
    console.print(f"{place}: parity {outcome.parity['verdict']}", markup=False, highlight=False, soft_wrap=True)
    drawn = f"{place}/preview.png and " if (outcome.path / "preview.png").exists() else ""
    console.print(f"Look at {drawn}{place}/report.html", markup=False, highlight=False, soft_wrap=True)


for _module in pkgutil.iter_modules(commands.__path__):
    tp_export.add_command(getattr(importlib.import_module(f"exporter.commands.{_module.name}"), _module.name))


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal cannot show must not end an answer
    with last_words(debug="--debug" in sys.argv):
        tp_export.main(prog_name="tp-export", standalone_mode=False)
    sys.exit(0)
