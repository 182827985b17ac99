import pytest

import engines.backends
from engines.backends import ort_cpu, trt_rtx
from engines.errors import UserError
from engines.registry import (
    Engine,
    Target,
    available_targets,
    engine,
    names,
    parse_target,
    parse_targets,
)


def test_backends_are_found_by_name():
    assert {"ort-cpu", "ov-cpu", "trt-rtx"} <= set(names())
    assert engine("ort-cpu") is ort_cpu
    assert engine("trt-rtx") is trt_rtx


@pytest.mark.parametrize("name", names())
def test_every_backend_offers_the_whole_contract(name):
    backend = engine(name)
    members = [*Engine.__annotations__, *(m for m in vars(Engine) if not m.startswith("_"))]
    assert {"name", "build", "load", "available"} <= set(members)
    assert [m for m in members if not hasattr(backend, m)] == []
    assert backend.name == name


def test_a_new_backend_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "toy_one.py").write_text("name = 'toy-one'\ndef check(options): pass\n")
    monkeypatch.setattr(engines.backends, "__path__", [*engines.backends.__path__, str(tmp_path)])
    assert "toy-one" in names()
    assert parse_target("toy-one:a") == Target("toy-one", ("a",))


def test_parses_names_and_options():
    assert parse_target("ort-cpu") == Target("ort-cpu")
    assert parse_target(" trt-rtx:sm86,SM89 ") == Target("trt-rtx", ("sm86", "sm89"))
    assert parse_target("trt-rtx:sm120,sm89") == parse_target("trt-rtx:sm89,sm120")


def test_labels_tell_engines_apart():
    assert Target("trt-rtx").label() == "trt-rtx"
    assert parse_target("trt-rtx:sm120,sm89").label() == "trt-rtx-sm89-sm120"
    assert Target("trt", ("sm90",)).label("int4") == "trt-sm90-int4"


def test_a_target_may_stand_for_the_gpu_at_hand(monkeypatch):
    monkeypatch.setattr(trt_rtx, "at_hand", lambda: ("sm90",), raising=False)
    assert parse_targets(["trt-rtx"]) == [Target("trt-rtx", ("sm90",))]
    assert parse_targets(["trt-rtx:sm89"]) == [Target("trt-rtx", ("sm89",))]
    assert Target("trt-rtx", ("sm90",)) in available_targets()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("tensorflow", "unknown target 'tensorflow': choose from ort-cpu, ov-cpu, trt, trt-rtx, or auto"),
        ("", "unknown target ''"),
        ("../ort_cpu", "unknown target"),
        ("ort-cpu:fast", "takes no options"),
        ("trt-rtx:sm87", "unknown GPU 'sm87'; known are .*sm89"),
        ("trt-rtx:", "unknown GPU ''"),
        ("trt-rtx:sm86,sm86", "named twice"),
    ],
)
def test_mistakes_are_one_line(text, match):
    with pytest.raises(UserError, match=match):
        parse_target(text)


def test_auto_is_all_that_is_available(monkeypatch):
    assert parse_targets(["auto"]) == available_targets()
    monkeypatch.setattr(trt_rtx, "available", lambda: "tensorrt_rtx is not installed")
    assert Target("ort-cpu") in parse_targets(["auto"])
    assert Target("trt-rtx") not in parse_targets(["auto"])


def test_an_unavailable_target_says_what_to_install(monkeypatch):
    monkeypatch.setattr(trt_rtx, "available", lambda: "tensorrt_rtx is not installed")
    with pytest.raises(UserError, match=r"not installed; pip install 'tp-export\[rtx\]'"):
        parse_targets(["ort-cpu", "trt-rtx"])


def test_a_target_is_named_once():
    assert len(parse_targets(["trt-rtx:sm86", "trt-rtx:sm89", "trt-rtx"])) == 3
    with pytest.raises(UserError, match="target named twice: trt-rtx-sm86-sm89"):
        parse_targets(["trt-rtx:sm86,sm89", "trt-rtx:sm89,sm86"])
