"""What this machine can do."""

from __future__ import annotations

import sys

import click
from rich.console import Console


@click.command()
def doctor() -> None:
    """Say what this machine can build, what is missing, and what to install."""
    from engines.tables import Table, print_tables
    from exporter.doctor import diagnose

    checks = diagnose()
    rows = tuple((c.name, "ok" if c.ok else "extra" if c.extra else "no", c.detail, c.remedy) for c in checks)
    print_tables([Table("This machine", ("what", "", "found", "what to do"), rows)], Console())
    if not all(check.ok or check.extra for check in checks):
        sys.exit(1)
