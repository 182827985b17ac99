"""What docs/plugin.md says about building is so; its `console` blocks run with those of the other pages."""

import shutil

import pytest

from plugins.library import NAME, inspect
from tests.documents import ROOT, blocks, ran, read
from tests.plugins.compilers import headers

PAGE = "docs/plugin.md"


def test_it_names_what_is_there():
    page = read(PAGE)
    for place in ("plugins/jetson.cmake", "plugins/CMakeLists.txt", "plugins/src/launch.hpp", "tools/gpu_check.py"):
        assert (ROOT / place).is_file()
        assert place.removesuffix("/CMakeLists.txt") in page
    assert NAME in page


@pytest.mark.headers
def test_the_commands_build_the_library(tmp_path):
    shutil.copytree(ROOT / "plugins", tmp_path / "plugins")
    build = next(block.text for block in blocks(PAGE, "bash") if "TRT_INCLUDE_DIR" in block.text)
    for command in build.replace("/path/to/TensorRT/include", headers()).splitlines():
        ran(command, tmp_path)
    gpus = inspect(tmp_path / "build" / "plugins" / NAME).gpus
    assert "87-real" in gpus
    assert gpus.endswith("-virtual")
