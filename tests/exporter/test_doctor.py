from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from engines.backends import ort_cpu, ov_cpu, trt, trt_rtx
from engines.registry import names
from exporter import doctor
from exporter.cli import tp_export
from exporter.doctor import diagnose


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "cache"))


def checks():
    return {check.name: check for check in diagnose()}


def versions(monkeypatch, **known):
    """Pretends that these distributions are installed, or with None that they are not."""
    real, known = metadata.version, {name.replace("_", "-"): version for name, version in known.items()}

    def version(name):
        if known.get(name, "") is None:
            raise metadata.PackageNotFoundError(name)
        return known.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_every_finding_has_a_remedy_unless_it_is_fine():
    found = checks()
    assert {f"target {name}" for name in names()} <= found.keys()
    assert {"can export", "can build for"} <= found.keys()
    assert {"torch", "transformers", "onnx", "cache", "ONNX Runtime"} <= found.keys()
    assert {f"package {name}" for name in ("exporter", "engines", "graph_passes", "plugins")} <= found.keys()
    assert not {"pytest", "mypy", "tensorrt", "ray"} & found.keys()  # extras are not missed
    assert all(bool(check.remedy) != check.ok for check in found.values())
    assert all(check.detail and "\n" not in check.detail for check in found.values())


def test_what_an_installation_can_do_is_said():
    found = checks()
    assert found["can export"].detail == "yes"
    assert {"ort-cpu", "trt-rtx"} <= set(found["can build for"].detail.split(", "))
    full = found["target trt"]
    assert full.ok or (full.extra and full.remedy == "pip install 'tp-export[tensorrt]'")


def test_a_machine_that_runs_bundles_lacks_nothing(monkeypatch):
    versions(monkeypatch, torch=None, transformers=None, onnxscript=None, huggingface_hub=None)
    found = checks()
    assert found["can export"].detail == "no: huggingface-hub, onnxscript, torch, transformers"
    assert found["can export"].remedy == "pip install 'tp-export[export]'"
    assert CliRunner().invoke(tp_export, ["doctor"]).exit_code == 0


def test_an_installation_that_can_do_nothing_is_none(monkeypatch):
    for backend in (ort_cpu, ov_cpu, trt, trt_rtx):
        monkeypatch.setattr(backend, "available", lambda: "it is not installed")
    assert CliRunner().invoke(tp_export, ["doctor"]).exit_code == 0  # it exports
    versions(monkeypatch, torch=None)
    assert checks()["can build for"].detail == "nothing"
    assert CliRunner().invoke(tp_export, ["doctor"]).exit_code == 1


def test_an_available_target_tells_its_version():
    assert checks()["target trt-rtx"].detail == metadata.version("tensorrt-rtx-cu13")


def test_a_missing_builder_comes_with_its_command(monkeypatch):
    monkeypatch.setattr(trt_rtx, "available", lambda: "tensorrt_rtx is not installed")
    check = checks()["target trt-rtx"]
    assert not check.ok
    assert check.remedy == "pip install 'tp-export[rtx]'"


def test_openvino_is_an_extra(monkeypatch):
    assert checks()["target ov-cpu"].ok
    monkeypatch.setattr(ov_cpu, "available", lambda: "openvino is not installed")
    assert checks()["target ov-cpu"].remedy == "pip install 'tp-export[openvino]'"
    assert CliRunner().invoke(tp_export, ["doctor"]).exit_code == 0


def test_two_onnx_runtimes_are_an_error(monkeypatch):
    versions(monkeypatch, onnxruntime="1.31.1", onnxruntime_gpu="1.31.0")
    check = checks()["ONNX Runtime"]
    assert not check.ok
    assert "onnxruntime 1.31.1, onnxruntime-gpu 1.31.0" in check.detail
    assert check.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


def test_one_onnx_runtime_is_fine_and_none_is_not(monkeypatch):
    versions(monkeypatch, onnxruntime=None, onnxruntime_gpu="1.31.0")
    assert checks()["ONNX Runtime"].ok
    versions(monkeypatch, onnxruntime=None, onnxruntime_gpu=None)
    assert not checks()["ONNX Runtime"].ok
    assert checks()["ONNX Runtime"].remedy == "pip install 'tp-export[runtime]'"


def test_wrong_and_missing_versions_are_named(monkeypatch):
    versions(monkeypatch, torch="2.5.1", transformers=None)
    found = checks()
    assert not found["torch"].ok
    assert "2.5.1" in found["torch"].detail
    assert found["torch"].remedy.startswith("pip install 'torch")
    assert not found["transformers"].ok
    assert found["numpy"].ok


def test_a_tree_that_is_not_installed_is_said(monkeypatch):
    versions(monkeypatch, tp_export=None)
    assert not checks()["tp-export"].ok


def test_the_cache_is_measured(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/x").write_bytes(bytes(3 << 20))
    check = checks()["cache"]
    assert check.ok
    assert check.detail == f"3 MiB in {tmp_path / 'cache'}"


def test_a_cache_in_an_impossible_place_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "file"))
    assert not checks()["cache"].ok


def test_packages_that_hide_ours_are_found(tmp_path, monkeypatch):
    real = doctor.files
    monkeypatch.setattr(doctor, "files", lambda p: tmp_path / p if p == "engines" else real(p))
    found = checks()
    assert not found["package engines"].ok
    assert str(tmp_path) in found["package engines"].detail
    assert found["package exporter"].ok
    assert found["package exporter"].detail == str(Path(doctor.__file__).parent)


def test_another_distribution_with_our_names_is_found(monkeypatch):
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"engines": ["tp-export", "motors"]})
    found = checks()
    assert "motors installs it too" in found["package engines"].detail
    assert found["package graph_passes"].ok
