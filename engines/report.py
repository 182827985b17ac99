"""The report of a bundle: one HTML page that needs nothing beside it."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engines.tables import Table

TEMPLATES = Path(__file__).parent / "templates"


def write_report(bundle: Mapping[str, Any], tables: Sequence[Table], preview_png: bytes | None, path: Path) -> None:
    """Write the page.

    Args:
        bundle: The content of bundle.json; gives the title, the model and the verdict.
        tables: Shown in this order.
        preview_png: The picture of what was kept; stored in the page. None for models without eyes.
        path: The .html file.
    """
    # Names of models and tensors come from files of strangers: everything is escaped.
    house = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    page = house.get_template("report.html").render(
        bundle=bundle,
        recipe=bundle["recipe"],
        model=bundle["model"],
        verdict=bundle["parity"]["verdict"],
        tables=tables,
        picture="" if preview_png is None else b64encode(preview_png).decode("ascii"),
    )
    path.write_text(page, encoding="utf-8")
