"""Kernels on the CPU prove something only if a kernel with a mistake fails there: each of these has one."""

import shutil
import subprocess
import sys

import pytest

from tests.documents import ROOT
from tests.plugins import on_cpu

MISTAKES = {  # the kernel that shows it, the file, what is right there, what is wrong
    "a digit read before it is chosen": (
        "select", "select.cuh", "choose_digit(need, room);\n        __syncthreads();", "choose_digit(need, room);"),
    "ranks read before all warps have counted": ("select", "select.cuh", "__syncthreads();  // one", "// one"),
    "rows copied before they are known": ("token_select", "token_select.cu", "    __syncthreads();\n", ""),
    "one buffer for two turns": ("diverse_select", "diverse_select.cu", "step & 1, room", "0, room"),
    "a warp operation that lanes miss": (
        "select", "select.cuh", "const unsigned equals = ", "if (i >= n) continue;\n        const unsigned equals = "),
    "one element too far": ("select", "order.cuh", "[at] = index;\n        else", "[at + 1] = index;\n        else"),
}  # fmt: skip
CASES = """
import sys
from pathlib import Path
import numpy as np
from plugins import twins
from tests.plugins import on_cpu
from tests.plugins.scores import scores, tied
kernel = sys.argv[1]
on_cpu.KERNELS, on_cpu.SOURCES, on_cpu.FLAGS = (kernel,), Path(sys.argv[2]), ("-std=c++20", "-O0", "-w")
for seed in range(6):
    given, tokens = scores(seed, tied, np.float32, 2, 300), scores(seed, tied, np.float32, 2, 300, 40)
    matrix = scores(seed, tied, np.float32, 2, 300, 300)
    args = {"select": [given], "token_select": [given, tokens], "diverse_select": [matrix, given]}[kernel] + [20]
    args += ["max-min"] * (kernel == "diverse_select")
    got, want = getattr(on_cpu, kernel)(*args, order=seed), getattr(twins, kernel)(*args)
    assert all(np.array_equal(one, other) for one, other in zip(got, want, strict=True))
print("all equal")
"""


def cases(kernel, folder):
    words = [sys.executable, "-c", CASES, kernel, str(folder)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake, tmp_path):
    shutil.copytree(on_cpu.SOURCES, tmp_path / "src")
    kernel, name, right, wrong = MISTAKES[mistake]
    file = tmp_path / "src" / name
    text = file.read_text()
    assert text.count(right) == 1
    file.write_text(text.replace(right, wrong))
    done = cases(kernel, tmp_path / "src")
    assert done.returncode != 0
    assert "error:" not in done.stderr, "it does not even compile"
    assert ("cuda_on_cpu: " in done.stderr) == ("lanes miss" in mistake)


@pytest.mark.parametrize("kernel", on_cpu.KERNELS)
def test_without_one_all_is_well(kernel):
    assert cases(kernel, on_cpu.SOURCES).stdout == "all equal\n"
