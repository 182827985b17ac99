"""What the script does on a board where trtexec is a stand-in."""

import json
import shutil
from pathlib import Path

import pytest

from tests.engines.trt.board import PARTS, TRTEXEC, asked, build, written
from tests.engines.trt.rtx import answers


@pytest.fixture(scope="module")
def folder(demo_bundle, tmp_path_factory):
    """What is written for JetPack 6.2; for reading only."""
    return written(demo_bundle, tmp_path_factory.mktemp("board") / "demo-board")


@pytest.fixture
def board(folder, demo_bundle, tmp_path):
    """A board that everything was copied to, with a trtexec that notes what it is asked."""
    shutil.copytree(folder, tmp_path / "board")
    shutil.copy(demo_bundle / "onnx" / "model.safetensors", tmp_path / "board" / "onnx")
    trtexec = tmp_path / "bin" / "trtexec"
    trtexec.parent.mkdir()
    trtexec.write_text(TRTEXEC)
    trtexec.chmod(0o755)
    return tmp_path


def test_everything_is_built_once(board):
    code, said, errors = build(board)
    assert (code, errors) == (0, "")
    assert said.splitlines() == [*(f"{part}: built in 0 s, 0 MB" for part in PARTS), "all plans are in plans/"]
    assert sorted(path.name for path in (board / "board/plans").iterdir()) == sorted(f"{part}.plan" for part in PARTS)
    assert len(asked(board)) == 3
    code, said, _ = build(board)
    assert said.splitlines()[:3] == [f"{part}: there already" for part in PARTS]
    assert len(asked(board)) == 3


def test_the_first_failure_ends_it_and_leaves_no_plan(board):
    code, said, errors = build(board, BROKEN="embed")
    assert code == 1
    assert said == "vision: built in 0 s, 0 MB\n"
    assert errors == (
        "build_on_device.sh: embed failed: [11/21/2026-20:00:00] [E] Error[4]: out of memory (logs/embed.log)\n"
    )
    assert [path.name for path in (board / "board/plans").iterdir()] == ["vision.plan"]
    assert build(board)[0] == 0  # and goes on where it stopped
    assert len(asked(board)) == 4


@pytest.mark.parametrize(
    ("number", "shown"), [("101303", "10.13"), ("101601", "10.16"), ("110000", "11.0"), ("8502", "8.5"), ("x", None)]
)
def test_another_tensorrt_is_refused_before_anything_is_built(board, number, shown):
    code, said, errors = build(board, NUMBER=number)
    assert (code, said) == (1, "")
    wanted = (
        f"these graphs are for TensorRT 10.3, and this board has {shown}: write them anew" if shown else "does not say"
    )
    assert wanted in errors
    assert errors.count("\n") == 1
    assert not (board / "asked").exists()


@pytest.mark.parametrize("number", ["100300", "100700"])
def test_what_the_row_stands_for_is_taken(board, number):
    assert build(board, NUMBER=number)[0] == 0


def test_missing_and_changed_files_are_named(board):
    shard = board / "board/onnx/model.safetensors"
    with shard.open("r+b") as file:
        file.seek(100)
        file.write(b"changed")
    code, _, errors = build(board)
    assert code == 1
    assert errors.endswith("build_on_device.sh: a file is not what it was: copy it again\n")
    shard.unlink()
    assert build(board)[2] == "build_on_device.sh: onnx/model.safetensors is missing: copy it as README.txt says\n"
    (board / "bin/trtexec").unlink()
    assert "there is no /usr/src/tensorrt/bin/trtexec" in build(board)[2]
    assert not (board / "asked").exists()


def test_trtexec_is_told_what_an_engine_needs(board):
    build(board)
    for call, part in zip(asked(board), PARTS, strict=True):
        assert call[:2] == [f"--onnx=onnx/{part}.fp16.onnx", "--stronglyTyped"]
        assert set(call) >= {
            "--memPoolSize=workspace:2048", "--builderOptimizationLevel=3", "--timingCacheFile=timing.cache",
            "--profilingVerbosity=detailed", f"--exportLayerInfo=plans/{part}.layers.json", "--skipInference",
            f"--saveEngine=plans/{part}.plan.part",
        }  # fmt: skip
    assert [word.split("=")[0] for word in asked(board)[2] if "rofile=" in word or "Shapes" in word] == [
        "--profile", "--minShapes", "--optShapes", "--maxShapes",
    ] * 2  # fmt: skip


def test_a_real_builder_takes_the_shapes_that_trtexec_is_told(board):
    build(board)
    graphs = []
    for call in asked(board):
        graph = board / "board" / call[0].partition("=")[2]
        Path(f"{graph}.profiles.json").write_text(json.dumps(profiles(call)))
        graphs.append((graph, None))
    assert answers(graphs) == [""] * 3


def profiles(call):
    """trtexec's shapes as it reads them: a profile for each --profile, or the one."""
    found = []
    for word in call:
        flag, _, spec = word.partition("=")
        if flag == "--minShapes":
            found.append({})
        if flag.endswith("Shapes"):
            for each in spec.split(","):
                name, _, shape = each.rpartition(":")
                found[-1].setdefault(name, []).append([int(size) for size in shape.split("x")])
    return found
