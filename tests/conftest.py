"""What all tests share: a cache of their own, and one exported bundle."""

import os
import tempfile

import pytest


def pytest_configure(config):
    """Keep every test, and every command that a test starts, away from the user's cache; workers share one."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a worker for each core
    if hasattr(config, "workerinput"):
        return
    folder = tempfile.TemporaryDirectory(prefix="tp-export-tests-")
    config.add_cleanup(folder.cleanup)
    os.environ["TP_EXPORT_CACHE"] = folder.name


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory):
    """The demo model with 64 patches by FasterVLM, for every target of this machine; for reading only."""
    from rich.console import Console

    from exporter.export import export
    from exporter.recipe import Recipe

    path = tmp_path_factory.mktemp("bundle") / "demo-fastervlm-64"
    export(Recipe(method="fastervlm", keep="64"), path, Console(quiet=True))
    return path
