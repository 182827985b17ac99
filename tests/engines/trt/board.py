"""A board in a folder: what is written for it, and a trtexec that notes what it is told."""

import subprocess

from click.testing import CliRunner

from exporter.cli import tp_export

PARTS = ("vision", "embed", "decoder")
TRTEXEC = """#!/usr/bin/env bash
printf '&&&& RUNNING TensorRT.trtexec [TensorRT v%s] # trtexec\\n' "${NUMBER-100300}"
[[ $1 == --help ]] && exit 0
printf '%s\\n' "$@" >>"$ASKED"
for word; do
  case $word in
    --onnx=*) graph=${word#*=} ;;
    --saveEngine=*) plan=${word#*=} ;;
  esac
done
if [[ $graph == *"${BROKEN-nothing}"* ]]; then
  printf '[11/21/2026-20:00:00] [E] Error[4]: out of memory\\n'
  printf half >"$plan"
  exit 1
fi
printf '%s' "$graph" >"$plan"
"""


def run(*words):
    return CliRunner().invoke(tp_export, ["build", *map(str, words)])


def build(board, **environment):
    """Runs the script with nothing but a shell and our trtexec; what it printed, and its exit code."""
    path = f"{board / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        [board / "board" / "build_on_device.sh"],
        env={"PATH": path, "ASKED": str(board / "asked"), **environment},
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def asked(board):
    """The arguments of every call of trtexec, in order."""
    calls = []
    for word in (board / "asked").read_text().splitlines():
        if word.startswith("--onnx="):
            calls.append([])
        calls[-1].append(word)
    return calls


def written(bundle, out):
    """The bundle for JetPack 6.2, with batches up to 2."""
    done = run(bundle, "--script", "jetson", "--max-batch", "2", "-o", out)
    assert (done.exit_code, done.output) == (
        0,
        f"{out}: copy it to the board as its README.txt says, and run build_on_device.sh there\n",
    )
    return out
