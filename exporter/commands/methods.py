"""What methods there are."""

from __future__ import annotations

import click
from rich.console import Console

from exporter.extras import require_export


@click.command()
@click.argument("name", required=False)
@click.option("--matrix", is_flag=True, help="Which method works on which model family, or why not.")
def methods(name: str | None, matrix: bool) -> None:
    """List the methods, or describe one."""
    require_export("reading the methods")
    from engines.tables import print_tables
    from exporter import catalogue
    from exporter.catalogue import describe, listing

    if matrix:
        print_tables([catalogue.matrix()], Console())
    elif name is None:
        print_tables([listing()], Console())
    else:
        click.echo(describe(name))
