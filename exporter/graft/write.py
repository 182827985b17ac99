"""The cut model on disk: checked, complete, and there in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, ClearMetadataAndDocStringPass

from engines.errors import UserError
from exporter.disk import existing, full_disk_in_words, sync
from exporter.graft.run import INLINE, weight
from exporter.graft.source import external
from exporter.publish import place

LARGE = 2**20


def check_output(output: Path, model: Path, *, force: bool) -> None:
    """Say before any work whether the output may be written.

    Raises:
        UserError: it is there already, is the model itself, or its folder cannot be written.
    """
    if output.suffix != ".onnx":
        raise UserError(f"{output}: the output is an ONNX file: give a name that ends in .onnx")
    if os.path.lexists(output):
        if output.is_dir() or (model.exists() and output.samefile(model)):
            raise UserError(f"{output} is the model itself or a folder: choose another name with -o")
        if not force:
            raise UserError(f"{output} exists: choose another name with -o, or replace it with --force")
    folder = existing(output.absolute().parent)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {output}: {folder} is not a folder that you may write to")


def write(model: ir.Model, output: Path, *, force: bool) -> None:
    """Write the graph; weights in files stay there, or are copied beside it; more than 1 GB inside go to a file.

    Raises:
        UserError: another file is where weights must go, or `onnx.checker` finds something.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_in_words(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=".graft-") as name:
        folder = Path(name)
        for source in sorted({Path(t.base_dir, t.location).resolve() for t in external(model)}):
            _weights(source, folder, output.parent)
        big = None if external(model) or weight(model) < INLINE else f"{output.name}.data"
        ClearMetadataAndDocStringPass()(model)
        _check(model)
        ir.save(model, folder / output.name, external_data=big)
        made = sorted(folder.iterdir(), key=lambda path: path.name == output.name)  # the graph last
        for file in made:
            if file.name != output.name and (output.parent / file.name).exists() and not force:
                raise UserError(f"{output.parent / file.name} exists: replace it with --force")
            sync(file)
        for file in made:
            file.replace(output.parent / file.name)
        sync(output.parent)


def _check(model: ir.Model) -> None:
    """`onnx.checker` in full; large weights and those in files are inputs meanwhile, as nobody looks into them."""
    graph = (copy := model.clone()).graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) or (tensor is not None and tensor.nbytes > LARGE):
            graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
    CheckerPass(full_check=True)(copy)


def _weights(source: Path, folder: Path, beside: Path) -> None:
    """A file of weights next to the graph: the one that is there already if it is the same, else a copy."""
    target = beside / source.name
    if target.exists() and target.samefile(source):
        return
    if target.exists() and (target.stat().st_size != source.stat().st_size or _differ(target, source)):
        raise UserError(f"{target} exists and is not the model's weights: choose another folder with -o")
    if not target.exists():
        place(source, folder / source.name)


def _differ(one: Path, other: Path) -> bool:
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(2**24):
            if block != b.read(2**24):
                return True
    return False
