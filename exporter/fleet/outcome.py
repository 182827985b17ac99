"""`tp-export build --matrix`: read, done, told."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engines.tables import print_tables
from exporter.fleet.drive import drive
from exporter.fleet.jobs import Crew
from exporter.fleet.local import Local
from exporter.fleet.on_ray import OnRay
from exporter.fleet.reading import read_matrix
from exporter.fleet.room import room
from exporter.fleet.told import reasons, table


def build_matrix(
    file: Path,
    folder: Path,
    console: Console,
    jobs: int | None = None,
    ray: str | None = None,
    store: Path | None = None,
) -> bool:
    """Make what is missing of a matrix, and print what became of each part of it.

    Args:
        file: the TOML that says what there shall be.
        folder: gets the bundles.
        console: gets progress and table.
        jobs: most at once on this machine; None: as many as it takes.
        ray: address of a Ray cluster, or "local".
        store: where engines are kept, if not in the cache; workers must see it under this name.

    Returns:
        Whether nothing failed.

    Raises:
        UserError: a mistake in the file, or nothing can be begun.
    """
    matrix, folder = read_matrix(file), folder.absolute()
    many = jobs or room(matrix)
    crew: Crew = OnRay(ray, many, matrix.gpus) if ray else Local(many)
    ends = drive(matrix, folder, crew, console, store and store.absolute())
    console.print()
    print_tables([table(ends)], console)
    for line in reasons(ends):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return all(end.outcome != "failed" for end in ends.values())
