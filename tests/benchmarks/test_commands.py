"""Every command on tiny widths: what it writes, and that all lines compute the same."""

import json

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.peers import ours_ort_cuda

TINY = ["--geometry", "tiny", "--rounds", "2"]
EXACT = 1e-4  # of logits, fp32


@pytest.fixture
def run(tmp_path, capsys):
    """A command with --out, which must succeed: what it wrote, and what it printed."""

    def started(command, *options):
        assert main([command, *TINY, *options, "--out", str(tmp_path / "found.json")]) == 0
        (file,) = tmp_path.glob("found*.json")
        return json.loads(file.read_text()), capsys.readouterr().out

    return started


def check_lines(found, peers, batches):
    """All there, all of them with the same logits and kept places."""
    wanted = {(peer, side, batch) for peer in peers for side in ("dense", "pruned") for batch in batches}
    assert {(line["peer"], line["side"], line["batch"]) for line in found["lines"]} == wanted
    for line in found["lines"]:
        assert line["agrees"]["argmax"] == 1, line["peer"]
        assert line["agrees"]["logits"] < EXACT, line["peer"]
        assert line["agrees"].get("kept", 1) == 1, line["peer"]
        assert len(line["rounds"]) == (2 if line["batch"] == min(batches) else 1)
        assert line["seconds"]["first token"]["min"] > 0


def test_speed(run):
    found, printed = run("speed", "--only", "ours,torch-eager,torch-sdpa", "--batch", "1", "2")
    check_lines(found, ("ours-ort", "ours-openvino", "torch-eager", "torch-sdpa"), (1, 2))
    assert found["missing"] == {}
    assert found["kind"] == "speed"
    assert found["machine"]["cpus"] >= 1
    assert "torch" in found["versions"]
    work = found["flops"]["1"]
    assert work["dense"]["prefill"] > 5 * work["pruned"]["prefill"]
    assert work["dense"]["vision"] > work["pruned"]["vision"]
    assert 1.9 < found["flops"]["2"]["dense"]["first token"] / work["dense"]["first token"] < 2.1
    assert "| tp-export, ONNX Runtime |" in printed


@pytest.mark.matrix
def test_speed_of_what_takes_long_to_prepare(run):
    found, _ = run("speed", "--only", "ours-ort,naive-ort,torch-compile", "--batch", "1")
    check_lines(found, ("ours-ort", "naive-ort", "torch-compile"), (1,))
    prepared = {line["peer"]: line["setup_s"] for line in found["lines"]}
    assert prepared["naive-ort"]["export"] > 0
    assert prepared["torch-compile"]["compile"] > 0


def test_selection(run):
    found, printed = run("selection", "fastervlm", "divprune", "fastv", "--keep", "32", "64")
    assert (found["model"], found["patches"], found["keeps"]) == ("llava-1.5", 576, [32, 64])
    assert found["missing"] == {"fastv": "not run: selects in the decoder only"}
    for name, by_keep in found["methods"].items():
        for cell in by_keep.values():
            assert cell["nodes"] > 5, name
            assert 0 < cell["share"]["min"] <= cell["share"]["median"] <= cell["share"]["max"]
            assert 0 < cell["flops_share"] < 0.5
    cheap, dear = (found["methods"][name]["64"]["flops_share"] for name in ("fastervlm", "divprune"))
    assert cheap < 0.001 < dear  # one row of scores, against all pairs
    assert "| fastervlm |" in printed


def test_selection_over_tiles(run):
    found, _ = run("selection", "fastervlm", "--model", "llava-next", "--keep", "320")
    assert found["patches"] == 2880
    assert found["methods"]["fastervlm"]["320"]["nodes"] > 5


def test_gpu_without_one(capsys):
    assert not torch.cuda.is_available()
    assert main(["gpu"]) == 2
    assert capsys.readouterr().err.startswith("error: no CUDA GPU here")


def test_gpu_on_the_cpu(run, monkeypatch):
    monkeypatch.setattr(ours_ort_cuda, "DEVICES", ("cpu",))
    found, printed = run("gpu", "--device", "cpu", "--dtype", "fp32", "--batch", "2", "--only", "ours-ort,torch-sdpa")
    check_lines(found, ("ours-ort", "ours-ort-cuda", "torch-sdpa"), (2,))
    assert found["ceiling"]["2"]["gpu"] == "H200"
    own = next(r for r in found["ratios"] if r["slow"] == "ours-ort-cuda dense")["stages"]
    assert own["prefill"]["possible"] == found["ceiling"]["2"]["prefill"]
    assert "Ceiling of H200 at batch 2" in printed
