"""Rewrite the help texts in docs/cli.md from the commands themselves: python tools/update_docs.py."""

import re
from pathlib import Path

from click.testing import CliRunner

from exporter.cli import tp_export

PAGE = Path(__file__).parent.parent / "docs/cli.md"
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


def _help(words: list[str]) -> str:
    found = CliRunner().invoke(tp_export, [*words, "--help"], prog_name="tp-export", terminal_width=WIDTH)
    assert found.exit_code == 0, found.output
    return found.output


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
