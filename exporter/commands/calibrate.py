"""Parameters learned from pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from exporter.extras import require_export
from exporter.options import option, pairs


@click.command()
@option("model", default="demo", show_default=True)
@option("method", required=True)
@option("keep", required=True)
@option("param", "params", multiple=True, metavar="NAME=VALUE")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture to learn from; repeat for many. By default those that ship with tp-export.",
)
def calibrate(images: tuple[Path, ...], params: tuple[str, ...], **options: Any) -> None:
    """Learn a parameter that a method otherwise computes anew for every picture, and print it for --param."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    require_export("calibrating")
    from exporter.calibrate import calibrate as learn
    from exporter.recipe import Recipe

    click.echo(learn(Recipe(**options, params=pairs("--param", "VALUE", params)), images))
