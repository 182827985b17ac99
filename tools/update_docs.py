"""Rewrite docs/cli.md's help texts and docs/methods.md from the code itself: python tools/update_docs.py."""

import re
from pathlib import Path

from click.testing import CliRunner

from engines.tables import Table
from exporter.catalogue import describe, listing, matrix
from exporter.cli import tp_export
from exporter.registry import method_names

DOCS = Path(__file__).parent.parent / "docs"
PAGE, METHODS = DOCS / "cli.md", DOCS / "methods.md"
INTRODUCTION = """# Methods

Every method that `--method` takes, what it does, and where it departs from its paper or its authors' code. This page is
written by `python tools/update_docs.py` from the methods themselves; `tp-export methods NAME` prints the same.

`--keep` is the budget; what it counts is said below. `--param NAME=VALUE` changes a parameter from its default.
"""
WIDTH = 100
HELP = re.compile(r"(?<=^```text\n)Usage: ([a-z -]+?) (?:\[|[A-Z]).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def helps() -> dict[str, str]:
    """The help of every command, by its whole name."""
    names = [["tp-export"], *(["tp-export", name] for name in tp_export.commands)]
    return {" ".join(words): _help(words[1:]) for words in names}


def updated(page: str) -> str:
    """The page with every help text as it is now, and a section for each command that had none."""
    known = helps()
    page = HELP.sub(lambda match: known[match[1]], page)
    missing = [name for name in known if name not in documented(page)]
    return page + "".join(f"\n## {name}\n\n```text\n{known[name]}```\n" for name in missing)


def documented(page: str) -> list[str]:
    """The commands whose help is on the page."""
    return HELP.findall(page)


def methods_page() -> str:
    """docs/methods.md."""
    parts = [INTRODUCTION, markdown(listing()), "## Where each one works\n", markdown(matrix())]
    for name in method_names():
        head, *rest = describe(name).split("\n")
        parts.append(f"## {name}\n\n{head}\n" + "\n".join(rest) + "\n")
    return "\n".join(parts)


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _help(words: list[str]) -> str:
    found = CliRunner().invoke(tp_export, [*words, "--help"], prog_name="tp-export", terminal_width=WIDTH)
    assert found.exit_code == 0, found.output
    return found.output


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    METHODS.write_text(methods_page(), encoding="utf-8")
