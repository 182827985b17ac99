"""Code blocks of our documents, and running what they say."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    lang: str
    text: str


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, *langs):
    found = [Block(*match.groups()) for match in FENCE.finditer(read(name))]
    return [block for block in found if block.lang in langs]


def commands(name):
    """The shell commands of a document with the output that it shows, None where it shows none.

    A `sh` block is one command a line; a `console` block has them behind `$ `, each followed by its output.
    """
    found = []
    for block in blocks(name, "sh", "console"):
        if block.lang == "sh":
            found += [(line, None) for line in block.text.splitlines() if line]
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, output = part.split("\n", 1)
            found.append((command, output or None))
    return found


def shell(command, folder):
    """Run one command as a user would: our console script on the path, no terminal, no input."""
    scripts = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"], "COLUMNS": "100"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


def ran(command, folder, shown=None):
    """Run a command that must succeed and print what is shown; `...` stands for anything. Returns its output."""
    done = shell(command, folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    said = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
    if shown is not None:
        assert OutputChecker().check_output(shown, said, ELLIPSIS), f"{command} printed\n{said}"
    return said
