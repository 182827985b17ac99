"""Whether a bundle is what was exported."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def check(bundle: Path) -> None:
    """Verify a bundle's files, and its engines against the saved PyTorch reference."""
    from engines import parity
    from engines.bundle import open_bundle
    from engines.checkup import check as run_check
    from engines.checkup import mode
    from engines.summary import parity_table
    from engines.tables import print_tables

    opened = open_bundle(bundle, verify_later=True)
    told = parity.told(dict(run_check(opened)), mode=mode(opened))
    click.echo(f"{len(opened.contract['files'])} files are what was exported")
    print_tables([parity_table(told)], Console())
    if told["verdict"].endswith("fail"):
        sys.exit(1)
