"""Jobs on a real Ray cluster of this machine, two of whose three nodes have a kind of GPU each."""

import io
import socket

import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from engines.errors import UserError
from exporter.fleet import address, on_ray
from exporter.fleet.drive import drive
from exporter.fleet.on_ray import OnRay
from exporter.fleet.told import table
from tests.exporter.fleet.helper import ends, install, matrix

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Nodes by kind, with the first characters of their ids; workers can import the jobs."""
    folder = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        install(patch, folder)
        made = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
        nodes = {kind: made.add_node(**SMALL, resources={kind: 1}) for kind in ("l4", "a10")}
        made.nodes_by_kind = {kind: node.node_id[:6] for kind, node in nodes.items()}
        yield made
        made.shutdown()


@pytest.fixture
def out(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)
    return tmp_path / "out"


def driven(asked, out, cluster):
    said = io.StringIO()
    crew = OnRay(cluster.address, 1, asked.gpus)
    return drive(asked, out, crew, Console(file=said, width=300)), said.getvalue()


def test_every_job_runs_where_its_kind_of_gpu_is(cluster, out):
    found, said = driven(matrix(a="x@l4 x@a10 y", b="x@a10 x@l4"), out, cluster)
    assert set(ends(found).values()) == {"built"}
    for job, end in found.items():
        if job.kind:
            assert end.where.split()[-1] == cluster.nodes_by_kind[job.kind], job
    assert table(found).columns[-1] == "where"
    assert "a, x@l4: " in said
    assert cluster.nodes_by_kind["l4"] in said


def test_a_builder_or_a_worker_that_dies_is_one_row(cluster, out):
    found, _ = driven(matrix(a="abort worker x"), out, cluster)
    assert list(ends(found).values()) == ["built", "failed", "failed", "built"]
    aborted, killed = (end.why for end in found.values() if end.outcome == "failed")
    assert aborted.startswith("the child process died of SIGABRT")
    assert "\n" not in killed
    assert killed.startswith(("WorkerCrashedError: ", "OutOfMemoryError: "))


def test_a_kind_that_no_node_has_is_not_waited_for(cluster, out):
    found, _ = driven(matrix(a="x@h100 x@l4"), out, cluster)
    assert ends(found) == {("a", "ort-cpu"): "built", ("a", "x@h100"): "failed", ("a", "x@l4"): "built"}
    assert "no node of the cluster has h100" in [end.why for end in found.values()]


def test_an_interrupt_leaves_nothing_running(cluster, out, monkeypatch):
    asked = matrix(a="long@l4")
    crew = OnRay(cluster.address, 1, asked.gpus)

    def ended():
        if (out / "a.times").exists():
            raise KeyboardInterrupt
        return OnRay.ended(crew)

    monkeypatch.setattr(crew, "ended", ended)
    with pytest.raises(KeyboardInterrupt):
        drive(asked, out, crew, Console(quiet=True))
    found, _ = driven(matrix(b="x@l4"), out, cluster)  # the resource is free again, long before the job's end
    assert ends(found)["b", "x@l4"] == "built"


def test_a_node_that_goes_takes_its_jobs_with_it(cluster, out, monkeypatch):
    node = cluster.add_node(**SMALL, resources={"t4": 1})
    asked = matrix(a="long@t4", b="x@t4")
    crew, gone = OnRay(cluster.address, 1, asked.gpus), []

    def ended():
        if (out / "a.times").exists() and not gone:
            gone.append(cluster.remove_node(node, allow_graceful=False))
        return OnRay.ended(crew)

    monkeypatch.setattr(crew, "ended", ended)
    found = drive(asked, out, crew, Console(quiet=True))
    assert ends(found)["a", "long@t4"] == "failed"


def test_an_address_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(address, "ANSWER_S", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--ray {place}: no cluster answers there within 3 s"):
            OnRay(place, 1, {}).__enter__()


def test_an_address_that_ray_refuses_is_one_line():
    with pytest.raises(UserError, match="--ray none:x failed: ") as caught:
        OnRay("none:x", 1, {}).__enter__()
    assert "\n" not in str(caught.value)


def test_without_ray_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'tp-export\[ray\]'"):
        OnRay("auto", 1, {})


def test_a_cluster_of_its_own(out):
    asked = matrix(a="x")
    found = drive(asked, out, OnRay("local", 1, asked.gpus), Console(quiet=True))
    assert list(ends(found).values()) == ["built", "built"]
    assert not ray.is_initialized()
