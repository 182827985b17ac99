"""A clumsy user: commands that must end in one line, and checkpoints with something wrong in them."""

import contextlib
import io
import json
import shutil
import sys
from unittest import mock

from exporter.cli import main
from exporter.demo import demo_checkpoint

EXPORT = ("--method", "fastervlm", "--keep", "64", "--target", "ort-cpu")
DROP = object()


def run(*words):
    """Run a command in this process; returns its exit code, what it printed and what it said of its end."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["tp-export", *map(str, words)]),
        mock.patch("exporter.last_words._listen"),  # the signals are pytest's
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
    raise AssertionError("main returned")


def refused(*words, says, where=""):
    """Run a command that is a mistake: one line on stderr, code 2; it begins with `where` and holds `says`."""
    code, _, said = run(*words)
    assert said.count("\n") == 1, said
    assert said.startswith(f"tp-export: {where}"), said
    assert says in said, said
    assert code == 2, said


def copy_checkpoint(folder):
    """The demo checkpoint, to be damaged."""
    return shutil.copytree(demo_checkpoint("demo"), folder)


def configure(folder, name="config.json", **changes):
    """Change values of a JSON file; two underscores separate levels, DROP removes."""
    stored = json.loads((folder / name).read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        section = stored
        for key in outer:
            section = section[key]
        if value is DROP:
            section.pop(last, None)
        else:
            section[last] = value
    (folder / name).write_text(json.dumps(stored))
