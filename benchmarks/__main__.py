"""`python -m benchmarks COMMAND …`: each command is one file in `benchmarks/commands`."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys

from benchmarks import commands
from engines.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Parse, run one command, return its exit code; a user's mistake is one line and 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads must not spin while others are timed
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Paired measurements, and their report.")
    chosen = parser.add_subparsers(required=True, metavar="COMMAND")
    for found in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"benchmarks.commands.{found.name}")
        summary = str(module.__doc__).splitlines()[0]
        sub = chosen.add_parser(found.name.replace("_", "-"), help=summary, description=summary)
        module.arguments(sub)
        sub.set_defaults(run=module.main)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
