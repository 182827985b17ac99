"""What a bundle holds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--passes", is_flag=True, help="What each graph pass did to each part: nodes, FLOPs, bytes.")
def inspect(bundle: Path, passes: bool) -> None:
    """Show what a bundle holds."""
    from engines.bundle import open_bundle
    from engines.contract import wrong_entries_in_words
    from engines.json_file import read_object
    from engines.passes import pass_tables
    from engines.summary import details, summary
    from engines.tables import print_tables

    opened = open_bundle(bundle)
    parity = read_object(bundle / "parity.json")
    with wrong_entries_in_words(bundle):
        told = opened.contract
        tables = pass_tables(told) if passes else [*details(told), *summary(told, parity)]
    print_tables(tables, Console())
