"""A toy target and a bundle of toy graphs, with a cache of their own."""

import pytest

from tests.exporter.adding.light_bundle import add_toy, light_bundle, remove_toy


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def toy(tmp_path):
    folder = tmp_path / "backends"
    folder.mkdir()
    yield add_toy(folder)
    remove_toy(folder)


@pytest.fixture
def path(tmp_path):
    return light_bundle(tmp_path / "bundle")
