"""What a bundle holds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--passes", is_flag=True, help="What each graph pass did to each part: nodes, FLOPs, bytes.")
@click.option(
    "--engine",
    metavar="[LABEL]",
    is_flag=False,
    flag_value="",
    help="What became of the graphs in a TensorRT engine, or in all: fused attention, fp32, copies, waits.",
)
def inspect(bundle: Path, passes: bool, engine: str | None) -> None:
    """Show what a bundle holds."""
    from engines.bundle import open_bundle
    from engines.contract import wrong_entries_in_words
    from engines.fusion_tables import engine_tables
    from engines.json_file import read_object
    from engines.passes import pass_tables
    from engines.summary import details, summary
    from engines.tables import print_tables

    opened = open_bundle(bundle)
    parity = read_object(bundle / "parity.json")
    with wrong_entries_in_words(bundle):
        told = opened.contract
        tables = pass_tables(told) if passes else []
        tables += [] if engine is None else engine_tables(told, engine)
        if not tables:
            tables = [*details(told), *summary(told, parity)]
    print_tables(tables, Console())
