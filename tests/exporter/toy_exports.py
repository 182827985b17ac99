"""Toy methods, found like any other, exported once a session each."""

from functools import cache
from pathlib import Path

from rich.console import Console

import exporter.methods
from exporter.export import export
from exporter.recipe import Recipe

TOYS = Path(__file__).parent / "toys"


def install():
    """Let the registry find the toys beside the shipped methods."""
    if str(TOYS) not in exporter.methods.__path__:
        exporter.methods.__path__.append(str(TOYS))


@cache
def toy(name, folder, images=1, targets=("ort-cpu",), **more):
    """Export the demo model with one toy; parity must pass, or this raises."""
    install()
    recipe = Recipe(**{"method": name, "keep": "32", "targets": targets, "images": images} | more)
    mark = "-".join(str(value).replace("/", "") for value in more.values())
    return export(recipe, folder / f"{name}-{images}-{targets[0]}{mark}", Console(quiet=True))
