from types import SimpleNamespace

import pytest

from engines.trt import timing
from tests.engines.trt.fake_tensorrt import Config, Fake


@pytest.fixture
def config():
    return Config(Fake())


def test_each_version_and_gpu_has_a_file_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path))
    trt = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    places = [timing.place(trt, gpu).name for gpu in ("sm87 Orin (nvgpu)", "sm90 NVIDIA H200")]
    assert places == ["tensorrt-10.3.0-sm87-Orin-nvgpu-.cache", "tensorrt-10.3.0-sm90-NVIDIA-H200.cache"]
    assert timing.place(trt, "x").parent == tmp_path / "timing"


@pytest.mark.parametrize("data", [b"damaged", b"of another GPU", None])
def test_a_cache_that_does_not_fit_counts_as_empty(config, tmp_path, data):
    if data:
        (tmp_path / "a.cache").write_bytes(data)
    timing.attach(config, tmp_path / "a.cache")
    assert config.cache.data == b""


def test_what_another_build_wrote_meanwhile_stays(config, tmp_path):
    file = tmp_path / "timing" / "a.cache"
    timing.attach(config, file)
    file.parent.mkdir()
    file.write_bytes(b"other")
    timing.keep(config, file)
    assert file.read_bytes() == b"+new|other"
    assert list(file.parent.iterdir()) == [file]


def test_a_disk_that_is_full_costs_a_line_only(config, tmp_path, capsys):
    (tmp_path / "file").touch()
    timing.attach(config, tmp_path / "file" / "a.cache")
    timing.keep(config, tmp_path / "file" / "a.cache")
    assert "WARNING the timing cache was not kept" in capsys.readouterr().out
