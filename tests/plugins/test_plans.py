"""The library, built with TensorRT's headers, in plans of TensorRT-RTX: TRT_INCLUDE_DIR=DIR pytest -m headers."""

from pathlib import Path

import onnx
import pytest

from graph_passes.functions import DOMAIN
from plugins.library import NAME, inspect
from tests.documents import ROOT
from tests.plugins.compilers import headers, run
from tests.plugins.rtx import built

pytestmark = pytest.mark.headers
KINDS = ("float", "float16", "bfloat16")
HEAD = '<ir_version: 10, opset_import: ["" : 23, "tp.export" : 1]> g'
CALLED = f'plugin_namespace="{DOMAIN}"'
SELECT = f"i = tp.export.Select<k=[16],{CALLED}>(s)"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    build = tmp_path_factory.mktemp("build")
    options = [f"-DTRT_INCLUDE_DIR={headers()}", "-DCMAKE_CUDA_ARCHITECTURES=89"]
    for words in (["-S", str(ROOT / "plugins"), "-B", str(build), *options], ["--build", str(build), "-j", "2"]):
        done = run("cmake", *words)
        assert "warning" not in (done.stdout + done.stderr).lower()
    return str(build / NAME)


@pytest.fixture
def plan(library, tmp_path):
    """Builds a graph in ONNX text with the library loaded."""

    def build(text, **wishes):
        path = tmp_path / "part.onnx"
        onnx.save(onnx.parser.parse_model(HEAD + text), path)
        return built(path, plugins=library, **wishes)

    return build


def select(kind, batch="B", call=SELECT):
    return f"({kind}[{batch},64] s) => (int64[{batch},16] i) {{ {call} }}"


def diverse(form):
    call = f'i = tp.export.DiverseSelect<k=[16],form="{form}",{CALLED}>(m, s)'
    return f"(float[B,64,64] m, float[B,64] s) => (int64[B,16] i) {{ {call} }}"


def tokens(kind, more="", given="s, x", made="t, i"):
    """With a MatMul behind, which must know shape and type."""
    call = f"{made} = tp.export.TokenSelect<k=[16],{more}{CALLED}>({given}) y = MatMul(t, w)"
    inputs = f"{kind}[B,64] s, {kind}[B,64,32] x, {kind}[32,8] w, int64[1] c"
    return f"({inputs}) => ({kind}[B,K,8] y, int64[B,K] i) {{ {call} }}"


def test_it_says_how_it_was_built(library):
    told = inspect(library)
    assert told.cuda >= (12, 6)
    assert told.gpus == "89"


def test_it_needs_the_system_s_libraries_only(library):
    needed = run("ldd", library).stdout
    names = {Path(line.split()[0]).name.split(".so")[0] for line in needed.splitlines()}
    assert names <= {"linux-vdso", "linux-gate", "libc", "libm", "libdl", "librt", "libpthread", "ld-linux-x86-64"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "size"), [("B", -1), (2, 2)])
def test_select(plan, kind, batch, size):
    found = plan(select(kind, batch))
    assert (found["outputs"], found["error"]) == ({"i": [size, 16]}, "")
    assert len(found["plugins"]) == 1
    assert found["bytes"]


@pytest.mark.parametrize("kind", KINDS)
def test_token_select(plan, kind):
    found = plan(tokens(kind))
    assert (found["outputs"], found["error"]) == ({"y": [-1, 16, 8], "i": [-1, 16]}, "")
    assert len(found["plugins"]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_that_is_data(plan, kind):
    found = plan(tokens(kind, "dynamic=1,", "s, x, c", "t, i, many"))
    assert (found["outputs"], found["error"]) == ({"y": [-1, -1, 8], "i": [-1, -1]}, "")
    assert len(found["plugins"]) == 1


@pytest.mark.parametrize("form", ["max-min", "max-sum"])
def test_diverse_select(plan, form):
    found = plan(diverse(form))
    assert (found["outputs"], found["error"]) == ({"i": [-1, 16]}, "")
    assert len(found["plugins"]) == 1


def test_the_library_in_the_plan(plan, library):
    without, inside = (plan(select("float"), inside=inside)["bytes"] for inside in (False, True))
    assert inside - without >= Path(library).stat().st_size


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (select("float", call=SELECT.replace("16", "65")), "Select: k is more than a row has scores"),
        (select("float", call=SELECT.replace("k=[16],", "")), "Select: k must be one positive integer"),
        (diverse("facility"), "DiverseSelect: form must be max-min or max-sum"),
        (
            tokens("float", "", "s, x, c"),
            "TokenSelect: wrong number of inputs: count is there if and only if dynamic is 1",
        ),
    ],
)
def test_mistakes_are_one_line(plan, text, why):
    assert plan(text)["error"] == f"tp.export::{why}"
