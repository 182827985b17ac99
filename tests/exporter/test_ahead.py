import pytest
from rich.console import Console

from exporter import ahead
from exporter.build_parts import Tracer
from exporter.draft import Draft
from exporter.progress import Reporter
from exporter.recipe import Recipe


@pytest.fixture
def draft(monkeypatch, tmp_path):
    monkeypatch.setenv("TP_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ahead, "DEEP", 2)
    monkeypatch.setattr(ahead.os, "cpu_count", lambda: 2)
    return Draft.of(Recipe(method="grid", keep="16", targets=("ort-cpu", "trt-rtx")))


def test_what_a_child_traced_is_found_in_the_cache(draft, monkeypatch):
    with ahead.ahead(draft, draft.checkpoint.dir):
        pass
    monkeypatch.setattr(Tracer, "_make", lambda *_: pytest.fail("traced again"))
    built = Tracer(draft, "fp16", draft.checkpoint.dir).all(Reporter(Console(quiet=True), 0))
    assert set(built) == {"vision", "embed", "decoder"}


@pytest.mark.parametrize("why", ["one precision", "few layers", "one CPU"])
def test_no_child_where_it_does_not_pay(draft, monkeypatch, why):
    monkeypatch.setattr(ahead, "run_in_child", lambda *_: pytest.fail("a child was started"))
    if why == "one precision":
        draft = Draft.of(Recipe(method="grid", keep="16", targets=("ort-cpu",)))
    elif why == "few layers":
        monkeypatch.setattr(ahead, "DEEP", 99)
    else:
        monkeypatch.setattr(ahead.os, "cpu_count", lambda: 1)
    with ahead.ahead(draft, draft.checkpoint.dir):
        pass


def test_a_child_that_fails_leaves_the_work_to_its_parent(draft, monkeypatch):
    monkeypatch.setattr(ahead, "__name__", "exporter.nowhere")
    with ahead.ahead(draft, draft.checkpoint.dir):
        pass
    assert not (ahead.base() / "parts").exists()
