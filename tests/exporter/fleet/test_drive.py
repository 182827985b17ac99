"""Jobs on this machine: side by side, but never two of one bundle; what fails, refuses or is interrupted."""

import io
import os
import time

import pytest
from rich.console import Console

from engines.errors import UserError
from exporter.fleet import outcome, room
from exporter.fleet.drive import alone, drive
from exporter.fleet.jobs import End, Job
from exporter.fleet.local import Local
from exporter.fleet.told import reasons, table
from tests.exporter.fleet.helper import ends, install, matrix


@pytest.fixture
def out(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)
    return tmp_path / "out"


def driven(asked, out, jobs=2, store=None):
    said = io.StringIO()
    return drive(asked, out, Local(jobs), Console(file=said, width=300), store), said.getvalue()


def spans(path):
    """Begin and end of each build of a bundle."""
    stamps = [float(line.split()[0]) for line in path.read_text().splitlines()]
    return list(zip(stamps[::2], stamps[1::2], strict=True))


def test_bundles_side_by_side_engines_of_one_in_turn(out):
    found, said = driven(matrix(a="x y", b="x y", c="x"), out)
    assert set(ends(found).values()) == {"built"}
    assert [job.bundle for job in found] == [*"aaabbbcc"]  # the file's order, whatever came first
    a, b, c = (spans(out / f"{name}.times") for name in "abc")
    for spanned in (a, b):
        assert spanned[0][1] <= spanned[1][0]
    assert any(x[0] < y[1] and y[0] < x[1] for x in a for y in b)  # at once
    stamps = sorted((when, step) for span in a + b + c for when, step in ((span[0], 1), (span[1], -1)))
    assert max(sum(step for _, step in stamps[: n + 1]) for n in range(len(stamps))) <= 2
    assert "[8/8]" in said.replace("[ ", "[")
    assert sorted(path.name for path in out.iterdir()) == [".logs", "a.times", "b.times", "c.times"]


def test_what_fails_takes_only_what_needs_it(out):
    found, said = driven(matrix(failed="x", refused="x y", a="abort x"), out)
    assert ends(found) == {
        ("failed", "ort-cpu"): "failed", ("failed", "x"): "failed",
        ("refused", "ort-cpu"): "refused", ("refused", "x"): "refused", ("refused", "y"): "refused",
        ("a", "ort-cpu"): "built", ("a", "abort"): "failed", ("a", "x"): "built",
    }  # fmt: skip
    why = list(reasons(found))
    assert why[0] == "failed, ort-cpu: failed: because"
    assert why[1] == "failed, x: failed: its bundle was not exported"
    (died,) = [line for line in why if line.startswith("a, abort")]
    assert died.startswith("a, abort: failed: the child process died of SIGABRT")
    assert f"(log: {out}/.logs/a.abort.log)" in died
    assert "refused: because" in said


def test_a_kind_of_gpu_needs_a_cluster(out):
    found, _ = driven(matrix(a="x@l4 y"), out)
    assert ends(found) == {("a", "ort-cpu"): "built", ("a", "x@l4"): "refused", ("a", "y"): "built"}
    assert next(reasons(found)) == "a, x@l4: refused: it wants a machine with l4: give a cluster with --ray"


def test_the_table_says_it_all(out):
    found, _ = driven(matrix(a="x", refused=""), out, store=out / "store")
    shown = table(found)
    assert shown.columns == ("bundle", "target", "", "seconds", "MB")
    assert [(row[0], row[1], row[2], row[4]) for row in shown.rows] == [
        ("a", "ort-cpu", "built", "2.0"),
        ("a", "x", "reused", "1.0"),
        ("refused", "ort-cpu", "refused", "-"),
    ]
    assert shown.note == "1 built, 1 reused, 1 refused"
    far = table({Job("a", "x", "", {}, out): End("built", where="n1")})
    assert (far.columns[-1], far.rows[0][-1]) == ("where", "n1")


def test_an_interrupt_ends_all_jobs(out, monkeypatch):
    crew, children = Local(2), []

    def ended():
        children.extend(crew._running)
        if len(crew._running) == 2 and all((out / f"{name}.times").exists() for name in "ab"):
            raise KeyboardInterrupt
        return Local.ended(crew)

    monkeypatch.setattr(crew, "ended", ended)
    with pytest.raises(KeyboardInterrupt):
        drive(matrix(a="long", b="long"), out, crew, Console(quiet=True))
    assert all(child.done() for child in children)


def test_one_run_at_a_time(out):
    with alone(out), pytest.raises(UserError, match="another tp-export build --matrix works in"):
        driven(matrix(a="x"), out)
    driven(matrix(a="x"), out)


def test_what_is_in_the_way_is_told_before_any_work(out):
    (out / "b").mkdir(parents=True)
    with pytest.raises(UserError, match="b exists and is not a bundle"):
        driven(matrix(a="x", b="x"), out)
    assert not (out / "a.times").exists()


def test_jobs_are_as_many_as_cpus_and_memory_allow(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    asked = matrix(a="x")
    for gib, jobs in ((100, 8), (7, 3), (1, 1)):
        monkeypatch.setattr(room, "available", lambda gib=gib: gib * 2**30)
        assert room.room(asked) == jobs
    monkeypatch.setattr(room, "available", lambda: None)
    assert room.room(asked) == 8


def test_the_verdict_is_whether_anything_failed(out, monkeypatch):
    said = Console(file=io.StringIO())
    for bundles, good in (({"a": "x"}, True), ({"refused": "x"}, True), ({"a": "abort"}, False)):
        monkeypatch.setattr(outcome, "read_matrix", lambda _, bundles=bundles: matrix(**bundles))
        assert outcome.build_matrix(out / "m.toml", out, said, jobs=1) is good


def test_children_do_not_outlive_a_drive(out):
    start = time.perf_counter()
    with Local(1) as crew:
        crew.start(Job("a", "x", "fleet_jobs:build", {"bundle": str(out), "target": "long", "told": {}, "store": None},
                       out.parent / "log"))  # fmt: skip
        (child,) = crew._running
    assert child.done()
    assert time.perf_counter() - start < 30
