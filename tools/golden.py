"""Play recorded vectors through the project's own reducers, in PyTorch and as ONNX graphs: `golden.py DIR`.

Every `DIR/METHOD/case*.npz` is read by `tools/goldens/METHOD.py`, whose `checks(case)` says what to run on which arrays
and what must come out. One line a check; the last line counts the cases, and the exit code is 1 unless all match.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph_passes.pipeline import optimise

TOLERANCE = 1e-4  # largest difference of values, in units of the largest wanted one or of 1
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Check:
    """Tensors in, named tensors out, and what those must be: integers equal, floats within the tolerance."""

    what: str
    run: Callable[..., Mapping[str, Tensor]]
    inputs: Sequence[Tensor]
    want: Arrays


class _Module(torch.nn.Module):
    def __init__(self, run: Callable[..., Mapping[str, Tensor]], names: Sequence[str]) -> None:
        super().__init__()
        self._run, self._names = run, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self._run(*inputs)
        return tuple(found[name].clone() for name in self._names)


def in_pytorch(check: Check) -> dict[str, NDArray[Any]]:
    """Run as it is."""
    found = check.run(*check.inputs)
    return {name: found[name].detach().numpy() for name in check.want}


def as_graph(check: Check) -> dict[str, NDArray[Any]]:
    """Trace, run the graph passes, and run the graph in ONNX Runtime."""
    names = list(check.want)
    with torch.no_grad():
        program = torch.export.export(_Module(check.run, names), tuple(check.inputs), strict=False)
    made = torch.onnx.export(program, (), dynamo=True, opset_version=23, optimize=False, verbose=False)
    assert made is not None
    optimise(made.model)
    session = onnxruntime.InferenceSession(ir.to_proto(made.model).SerializeToString())
    fed = {port.name: tensor.numpy() for port, tensor in zip(session.get_inputs(), _used(made, check), strict=True)}
    return dict(zip(names, session.run(None, fed), strict=True))


def _used(made: Any, check: Check) -> list[Tensor]:
    """The inputs, all of which stay inputs of the graph."""
    assert len(made.model.graph.inputs) == len(check.inputs)
    return list(check.inputs)


def compare(got: Arrays, want: Arrays) -> tuple[bool, float, str]:
    """Whether everything matches, the largest difference of values, and the first thing that does not."""
    worst, wrong = 0.0, ""
    for name, wanted in want.items():
        found = got[name]
        if found.shape != wanted.shape:
            return False, float("inf"), f"{name} has shape {found.shape}, not {wanted.shape}"
        if np.issubdtype(wanted.dtype, np.floating):
            scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
            difference = float(np.abs(found - wanted).max(initial=0.0)) / scale
            worst = max(worst, difference)
            wrong = wrong or ("" if difference <= TOLERANCE else f"{name} differs by {difference:.1e}")
        elif not np.array_equal(found, wanted):
            wrong = wrong or f"{name}: {int((found != wanted).sum())} of {wanted.size} differ"
    return not wrong, worst, wrong


def load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a case; nothing in it is executed."""
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def adapter(method: str) -> Any | None:
    """The module that reads this method's cases, if there is one."""
    name = f"tools.goldens.{method.replace('-', '_')}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def play(path: Path) -> Iterator[tuple[str, bool, float, str]]:
    """Every check of one case on both sides: what, whether it matches, the largest difference, what is wrong."""
    reader = adapter(path.parent.name)
    if reader is None:
        yield "missing", False, float("nan"), "no reducer reads this method's vectors"
        return
    for check in reader.checks(load(path)):
        for side, run in (("pytorch", in_pytorch), ("onnx", as_graph)):
            yield f"{check.what} [{side}]", *compare(run(check), check.want)


def main(folder: str) -> int:
    """Play all cases below `folder`; returns the exit code."""
    warnings.simplefilter("ignore")  # the exporter's own
    logging.disable(logging.WARNING)
    paths = sorted(Path(folder).glob("*/case*.npz"))
    matched = 0
    for path in paths:
        good = True
        try:
            for what, ok, worst, wrong in play(path):
                good &= ok
                print(f"{path.parent.name:12} {path.stem:6} {what:44} {wrong or 'equal':32} max diff {worst:.1e}")
        except (KeyError, ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            good = False
            print(f"{path.parent.name:12} {path.stem:6} cannot be played: {' '.join(str(error).split())[:160]}")
        matched += good
    print(f"{matched} of {len(paths)} cases match")
    return 0 if paths and matched == len(paths) else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/golden.py DIR, a folder with METHOD/case*.npz")
    sys.exit(main(sys.argv[1]))
