"""Tables and a plot of what was measured: prints Markdown, draws docs/speed.png, fills the README in."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from benchmarks.report import TABLES, told
from engines.errors import UserError

PLOTTED = {"speed", "gpu"}
ALT = "Milliseconds to the first token, dense and pruned, by engine."
MARKS = "<!-- benchmarks: {kind} -->\n"  # before what is filled in, and after it


def arguments(parser: argparse.ArgumentParser) -> None:
    """A file that `--out` wrote."""
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--plot", type=Path, default=Path("docs/speed.png"))
    parser.add_argument("--readme", type=Path, help="put the table between its marks")


def main(options: argparse.Namespace) -> int:
    """Print, draw, fill in."""
    found = read(options.file)
    text = told(found)
    print(text)
    if found["kind"] in PLOTTED:
        from benchmarks.plot import draw

        draw(found, options.plot)
    if options.readme:
        page = options.readme.resolve()
        if found["kind"] in PLOTTED:
            text = f"![{ALT}]({os.path.relpath(options.plot.resolve(), page.parent)})\n\n{text}"
        page.write_text(filled(page.read_text(encoding="utf-8"), found["kind"], text), encoding="utf-8")
    return 0


def read(file: Path) -> dict[str, Any]:
    """What was measured.

    Raises:
        UserError: there is no such file, or it is not one of ours.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}: give a file that --out wrote") from error
    if not isinstance(found, dict) or found.get("kind") not in TABLES:
        raise UserError(f"{file}: its 'kind' is none of {', '.join(TABLES)}: give a file that --out wrote")
    return found


def filled(page: str, kind: str, text: str) -> str:
    """A page with a table between its marks.

    Raises:
        UserError: it has none.
    """
    mark = MARKS.format(kind=kind)
    piece = re.compile(f"({re.escape(mark)}).*?({re.escape(mark)})", re.DOTALL)
    if not piece.search(page):
        raise UserError(f"the page has no two lines '{mark.strip()}' to put the table between")
    return piece.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)
