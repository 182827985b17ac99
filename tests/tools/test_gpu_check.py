"""The GPU check where there is no GPU: kernels played by one CPU thread, parts in ONNX Runtime's CPU provider."""

import argparse
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks.commands.speed import bench
from benchmarks.work import Bench
from engines.errors import UserError
from tests.documents import ROOT
from tools import gpu_check
from tools.gpu import compiled, kernels, parts, sections, speed
from tools.gpu.cases import KINDS, matrices, scores
from tools.gpu.compiled import SOURCES, Kernels, built
from tools.gpu.finding import Finding

GPP = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-include", str(ROOT / "tests/plugins/cuda_on_cpu.hpp")]
HERE = argparse.Namespace(quick=True, dtype=["fp16"], device="cpu", cases=None)
RIGHT, WRONG = "out.put(place + at, index)", "out.put(place + at, index > 0 ? index - 1 : 0)"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernels' own source, compiled for the CPU."""
    return Kernels(built([*GPP, "-x", "c++"], tmp_path_factory.mktemp("right")))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The same with a mistake in Select: it writes the place before each that it found."""
    folder = tmp_path_factory.mktemp("wrong")
    sources = shutil.copytree(SOURCES, folder / "src")
    text = (sources / "select.cu").read_text()
    assert RIGHT in text
    (sources / "select.cu").write_text(text.replace(RIGHT, WRONG))
    return Kernels(built([*GPP, "-x", "c++"], folder, sources))


@pytest.fixture
def check(monkeypatch, tmp_path, capsys):
    """The command with sections of the test's own: exit code, JSON, what it printed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")

    def run(*found, **more):
        code = gpu_check.main(
            ["--only", "kernels", "--out", str(tmp_path / "new/a.json")], {"kernels": more["section"]}
        )
        return code, json.loads((tmp_path / "new/a.json").read_text()), capsys.readouterr().out

    return run


def test_without_a_gpu_it_says_so(capsys):
    assert not torch.cuda.is_available()
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: no CUDA GPU here (torch.cuda.is_available() is false): run this where one is"
    ]


def test_cases_hold_all_that_can_go_wrong():
    found = list(scores(120))
    assert {case.kind for case in found} == set(KINDS)
    assert {case.values.dtype for case in found} == {torch.float32, torch.float16, torch.bfloat16}
    ks = [(case.k, case.values.shape[1]) for case in found]
    assert any(k == 1 < n for k, n in ks)
    assert any(k == n > 1 for k, n in ks)
    assert any(n == 1 for _, n in ks)
    assert any(case.values.isnan().any() for case in found)
    assert {case.form for case in matrices(16)} == {"max-min", "max-sum"}


def test_right_kernels_pass(check, emulated):
    code, report, printed = check(section=lambda _: kernels.section(emulated, "cpu", 24, timed=False))
    assert code == 0
    assert [(line["what"], line["good"], line["figures"]["cases"]) for line in report["lines"]] == [
        ("Select", True, 24),
        ("TokenSelect", True, 24),
        ("DiverseSelect", True, 6),
    ]
    assert (report["kind"], report["gpu"]) == ("gpu_check", "a GPU")
    assert report["command"].startswith("python tools/gpu_check.py --only kernels")
    assert "24 cases equal twin and PyTorch" in printed
    assert "0 of 3 lines are wrong" in printed


def test_a_wrong_kernel_is_found(check, broken):
    code, report, printed = check(section=lambda _: kernels.section(broken, "cpu", 24, timed=False))
    assert code == 1
    assert [line["good"] for line in report["lines"]] == [False, True, True]
    assert "not what the twin says" in report["lines"][0]["detail"]
    assert "1 of 3 lines are wrong" in printed


def test_a_section_that_cannot_run_or_breaks_does_not_end_the_others(check):
    def refused(_):
        yield Finding("kernels", "first", good=True)
        raise UserError("nvcc is missing")

    def breaks(_):
        raise RuntimeError("CUDA error:\nan illegal memory access")
        yield

    code, report, _ = check(section=refused)
    assert (code, report["lines"][1]["good"], report["lines"][1]["detail"]) == (0, None, "not run: nvcc is missing")
    code, report, _ = check(section=breaks)
    assert (code, report["lines"][0]["detail"]) == (1, "RuntimeError: CUDA error: an illegal memory access")


def test_compilers_that_are_missing_or_refuse_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.cu").write_text("what is this")
    with pytest.raises(UserError, match=r"g\+\+ cannot compile plugins/src: .*error"):
        built([*GPP, "-x", "c++"], tmp_path, tmp_path)
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="nvcc is missing"):
        compiled.compiled(tmp_path, "sm90")


def test_the_kernels_compile_for_a_gpu_and_load(tmp_path):
    library = compiled.compiled(tmp_path, "sm90")
    assert b"sm_90" in library.read_bytes()
    assert Kernels(library)  # whose interface has been asked


def test_times_are_told_with_the_bytes_that_they_move(emulated, monkeypatch):
    monkeypatch.setattr(speed, "SIZES", ((2, 40, 8),))
    found = list(speed.speeds(emulated, "cpu", rounds=2))
    assert [each.what for each in found] == [
        f"{name} 2 x 8 of 40" for name in ("Select", "TokenSelect", "DiverseSelect")
    ]
    assert [each.figures["bytes"] for each in found] == [160 + 128, 160 + 2 * 2 * 8 * 4096 * 2, 4 * 2 * 8 * 40]
    assert all(each.good is None and each.figures["gbps"] > 0 for each in found)


def test_what_replaces_a_kernel_in_the_timing_computes_the_same(emulated):
    dice = torch.Generator().manual_seed(3)
    values, tokens = (torch.randn(2, 50, *more, generator=dice) for more in ((), (8,)))
    matrix = torch.randn(2, 50, 50, generator=dice)
    start = matrix.amin(1)
    assert torch.equal(emulated.select(values, 7), speed.top(values, 7))
    assert torch.equal(emulated.token_select(values, tokens, 7)[0], speed.rows(values, tokens, 7))
    assert torch.equal(emulated.diverse_select(matrix, start, 7, "max-min"), speed.greedy(matrix, start, 7))


@pytest.fixture(scope="module")
def tiny():
    """One tiny checkpoint and its graphs, whoever asks."""
    with bench("tiny", None, 64) as shared, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "bench", lambda *_, **__: nullcontext(shared))
        yield shared


@pytest.mark.matrix  # tracing takes its time
def test_every_part_beside_the_reference(tiny):
    found = list(sections.onnxruntime_section(HERE))
    assert [each.what for each in found] == [
        f"{part}, fp16, batch {batch}" for batch in (1, 8) for part in ("vision", "embed", "decoder")
    ]
    assert all(each.good for each in found), [each.detail for each in found]
    assert 0 < found[0].figures["image_embeds"] < parts.BOUNDS["fp16"]


def test_a_part_that_is_off_is_wrong():
    wanted = {"image_embeds": torch.randn(2, 4, 3).numpy(), "kept_indices": torch.arange(8).view(2, 4).numpy()}

    def verdict(**changed):
        steps = {"vision": ({"pixel_values": wanted["image_embeds"]}, wanted)}
        (found,) = parts.compared("x", steps, "fp16", lambda _: lambda *_: {**wanted, **changed})
        return found.good

    assert verdict()
    assert not verdict(image_embeds=wanted["image_embeds"] * 1.1)
    assert not verdict(image_embeds=wanted["image_embeds"] * float("nan"))
    assert not verdict(kept_indices=wanted["kept_indices"] + 2)
    shuffled = {name: values[:, ::-1].copy() for name, values in wanted.items()}
    assert verdict(**shuffled)  # rows are compared where both have kept a token


@pytest.mark.matrix
def test_plans_are_built_here_and_run_elsewhere(tiny, tmp_path):
    """Without a GPU a plan comes as far as its runtime; every part has its profiles."""
    half = replace(tiny, dtype="bf16", kept={})
    for part in ("vision", "decoder"):
        with pytest.raises(UserError, match="cannot run: "):
            parts.plan_runner(half, part, "trt-rtx", 2, tmp_path)
        assert (tmp_path / f"{part}.bf16.trt-rtx.plan").stat().st_size > 10**5


def test_tensorrt_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(sections, "plans_possible", lambda: {"trt": "no GPU", "trt-rtx": "not installed"})
    found = [(each.section, each.good, each.detail) for each in sections.tensorrt_section(HERE)]
    assert found == [("trt", None, "not run: no GPU"), ("trt-rtx", None, "not run: not installed")]


def test_a_target_that_gives_up_leaves_the_other_its_turn(monkeypatch, tmp_path):
    def opened(_, part, target, **__):
        if target == "trt":
            raise UserError("out of memory")
        return lambda feeds, wanted: wanted

    steps = {"vision": ({"pixel_values": torch.ones(8, 2).numpy()}, {"image_embeds": torch.ones(8, 2).numpy()})}
    monkeypatch.setattr(sections, "plan_runner", opened)
    monkeypatch.setattr(sections, "plans_possible", lambda: dict.fromkeys(("trt", "trt-rtx")))
    other = Bench(tmp_path, tmp_path, dtype="fp16")
    monkeypatch.setattr(sections, "_references", lambda _: [(other, steps)])
    options = argparse.Namespace(**vars(HERE), folder=tmp_path)
    found = [(each.section, each.what, each.good) for each in sections.tensorrt_section(options)]
    assert found == [("trt", "all parts, fp16, batch 8", None), ("trt-rtx", "vision, fp16, batch 8", True)]


def test_speed_lines_name_what_is_possible(monkeypatch):
    stages = {"prefill": {"median": 2.0, "possible": 4.0, "achieved": 0.5}, "vision": {"median": 1.0}}
    line = {
        "peer": "p",
        "side": "pruned",
        "batch": 1,
        "agrees": {"kept": 0.5},
        "seconds": {"prefill": {"median": 0.01}},
    }
    ratio = {"slow": "p dense", "fast": "p pruned", "batch": 1, "stages": stages}
    found = {"dtype": "fp16", "lines": [line], "ratios": [ratio], "missing": {"q": "not run: no"}}
    monkeypatch.setattr(sections.gpu, "measured", lambda _: [found])
    first, second, third = sections.speed_section(HERE)
    assert (first.good, first.detail) == (False, "prefill 10.0 ms; kept as the first line 50%")
    assert second.detail == "prefill x2.00 (50% of x4.00), vision x1.00"
    assert (third.good, third.detail) == (None, "not run: no")
