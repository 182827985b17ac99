"""The kernels through NVIDIA's compiler: entry points, their parameters, registers and shared memory."""

import re

import pytest

from tests.plugins.compilers import nvcc, run
from tests.plugins.on_cpu import KERNELS, SOURCES

PARAMETERS = {  # of each entry: pointers and sizes are 8 bytes wide, ints 4
    "tp_select_kernel": [8, 4, 8, 4, 4, 4, 8, 8],
    "tp_token_select_kernel": [8, 4, 8, 8, 4, 8, 8, 4, 4, 4, 4, 8, 8],
    **{f"tp_diverse_select_kernel_{way}": [8, 8, 4, 8, 4, 4, 4, 8, 8, 8] for way in ("1", "4", "16", "any")},
}
BOARDS = ("sm_87", "sm_90", "sm_110")  # Orin, H100, Thor
ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)", re.DOTALL)
USED = re.compile(r"function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers.*?(\d+) bytes smem", re.DOTALL)


def generations():
    """Numbers of the GPU generations that this nvcc knows."""
    listed = run(nvcc(), "--list-gpu-arch").stdout
    return sorted(int(number) for number in re.findall(r"compute_(\d+)", listed))


@pytest.fixture(scope="module", params=[0, -1], ids=["oldest", "newest"])
def ptx(request, tmp_path_factory):
    """The PTX of all kernels for one generation, as text, and its folder."""
    folder = tmp_path_factory.mktemp("ptx")
    sources = [SOURCES / f"{kernel}.cu" for kernel in KERNELS]
    arch = f"-arch=compute_{generations()[request.param]}"
    run(nvcc(), "-ptx", "-std=c++17", arch, "-Xcompiler=-Wall,-Wextra,-Werror", *sources, folder=folder)
    return folder, "\n".join((folder / f"{kernel}.ptx").read_text() for kernel in KERNELS)


def test_entries_and_their_parameters(ptx):
    width = {"u64": 8, "b64": 8, "u32": 4, "b32": 4}
    found = {}
    for name, inside in ENTRY.findall(ptx[1]):
        assert name not in found
        found[name] = [width[kind] for kind in re.findall(r"\.param \.(\w+)", inside)]
    assert found == PARAMETERS


def test_rows_move_by_16_bytes(ptx):
    assert re.search(r"ld\.global\.v4\.[bu]32", ptx[1])
    assert re.search(r"st\.global\.v4\.[bu]32", ptx[1])


@pytest.mark.parametrize("ptx", [0], ids=["oldest"], indirect=True)
def test_nothing_spills_and_a_full_block_fits(ptx):
    folder, _ = ptx
    known = run(nvcc(), "--list-gpu-code", folder=folder).stdout.split()
    assert {"sm_87", "sm_90"} <= set(known)
    for board in (board for board in BOARDS if board in known):  # nvcc 12 does not know Thor
        for kernel in KERNELS:
            words = ("-v", f"-arch={board}", f"{kernel}.ptx", "-o", f"{kernel}.{board}")
            used = USED.findall(run(nvcc().with_name("ptxas"), *words, folder=folder).stderr)
            assert used
            for name, spilled, registers, shared in used:
                assert (board, name, int(spilled)) == (board, name, 0)
                assert int(registers) <= 64  # of 65536 for 1024 threads
                assert int(shared) <= 8192
