"""Pruning for a model that someone else exported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console

from exporter.extras import require_export
from exporter.options import option, pairs


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@option("method", required=True)
@option("keep", required=True)
@option("param", "params", multiple=True, metavar="NAME=VALUE")
@click.option("--layer", type=int, default=None, help="Cut behind this layer, from 0; by default as the table says.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=None,
    help="The new ONNX file; by default named after model, method and budget.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def graft(
    model: Path, method: str, keep: str, params: tuple[str, ...], layer: int | None, output: Path | None, force: bool
) -> None:
    """Put pruning into a vision transformer that is an ONNX file, and prove it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    require_export("grafting")
    from engines.tables import print_tables
    from exporter.graft.outcome import graft as make

    output = output or Path(f"{model.stem}-{method}-{keep.replace('%', 'pct')}.onnx")
    outcome = make(model, output, method, keep, layer, pairs("--param", "VALUE", params), force=force)
    print_tables(outcome.tables(), Console())
    if not outcome.good:
        click.echo("not proven: nothing was written", err=True)
        sys.exit(1)
    click.echo(f"{output}: proven, and written")
