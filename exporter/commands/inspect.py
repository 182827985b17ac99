"""What a bundle holds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def inspect(bundle: Path) -> None:
    """Show what a bundle holds."""
    from engines.bundle import open_bundle
    from engines.contract import wrong_entries_in_words
    from engines.json_file import read_object
    from engines.summary import details, summary
    from engines.tables import print_tables

    opened = open_bundle(bundle)
    parity = read_object(bundle / "parity.json")
    with wrong_entries_in_words(bundle):
        tables = [*details(opened.contract), *summary(opened.contract, parity)]
    print_tables(tables, Console())
