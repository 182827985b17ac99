"""The kernels compiled into a library, and its launchers (plugins/src/launch.hpp) called with PyTorch tensors."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from engines.errors import UserError

SOURCES = Path(__file__).parents[2] / "plugins" / "src"
FLOATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
FORMS = {"max-min": 0, "max-sum": 1}


def compiled(folder: Path, gpu: str) -> Path:
    """A shared library for one generation of GPUs, "sm90", in a folder.

    Raises:
        UserError: nvcc is missing, or refuses a source.
    """
    if shutil.which("nvcc") is None:
        raise UserError("nvcc is missing: put a CUDA toolkit's bin/ on PATH")
    arch = f"-gencode=arch=compute_{gpu[2:]},code=sm_{gpu[2:]}"
    return built(["nvcc", "-std=c++17", "-O3", arch, "-shared", "-Xcompiler=-fPIC", "-cudart=static"], folder)


def built(command: list[str], folder: Path, sources: Path = SOURCES) -> Path:
    """A library of all .cu files, by any compiler.

    Raises:
        UserError: it refuses one.
    """
    library = folder / "kernels.so"
    files = sorted(map(str, sources.glob("*.cu")))
    done = subprocess.run([*command, *files, "-o", str(library)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = next((line for line in said if "error" in line), said[-1] if said else f"exited with {done.returncode}")
        raise UserError(f"{command[0]} cannot compile plugins/src: {why[:300]}")
    return library


class Kernels:
    """Launchers over tensors, all on one device, on its current stream."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.tp_diverse_workspace.restype = ctypes.c_size_t
        if self._library.tp_interface() != 1:
            raise UserError(f"{library}: another interface than plugins/src/launch.hpp describes")

    def select(self, scores: Tensor, k: int) -> Tensor:
        """`[B,n]` to indices `[B,k]`, ascending."""
        (batch, n), out = scores.shape, _indices(scores, k)
        self._call("tp_select", scores, FLOATS[scores.dtype], out, 8, batch, n, k, None, None)
        return out

    def token_select(self, scores: Tensor, tokens: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """`[B,n]` and `[B,n,C]` to kept `[B,k,C]` and indices `[B,k]`."""
        (batch, n), out = scores.shape, _indices(scores, k)
        kept = tokens.new_empty(batch, k, tokens.shape[2])
        row = ctypes.c_size_t(tokens.shape[2] * tokens.element_size())
        sizes = (out, 8, batch, n, k, None, None)
        self._call("tp_token_select", scores, FLOATS[scores.dtype], tokens, row, kept, *sizes)
        return kept, out

    def diverse_select(self, matrix: Tensor, start: Tensor, k: int, form: str) -> Tensor:
        """`[B,n,n]` and `[B,n]`, fp32, to picks `[B,k]` in their order."""
        (batch, n), out = start.shape, _indices(start, k)
        room = torch.empty(max(1, self._library.tp_diverse_workspace(batch, n)), dtype=torch.uint8, device=start.device)
        self._call("tp_diverse_select", matrix, start, FORMS[form], out, 8, batch, n, k, None, None, room)
        return out

    def _call(self, name: str, *arguments: object) -> None:
        device = next(each.device for each in arguments if isinstance(each, Tensor))
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
        code = getattr(self._library, name)(*map(_pointer, arguments), ctypes.c_void_p(stream))
        if code:
            raise UserError(f"{name}: CUDA error {code}")


def _pointer(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    assert value.is_contiguous()
    return ctypes.c_void_p(value.data_ptr())


def _indices(like: Tensor, k: int) -> Tensor:
    return torch.full((len(like), k), -1, dtype=torch.int64, device=like.device)
