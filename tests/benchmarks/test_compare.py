"""What is set in proportion to what, and whether lines computed the same."""

import numpy as np
import pytest

from benchmarks import compare, peers
from benchmarks.timing import Run
from benchmarks.work import SIDES, Bench, Work
from engines.errors import UserError

TIMES = {
    "ours-ort dense": [(2.0, 10.0), (2.0, 14.0)],
    "ours-ort pruned": [(1.0, 2.0), (2.0, 2.0)],
    "torch-eager dense": [(5.0, 5.0), (5.0, 5.0)],
    "torch-eager pruned": [(3.0, 6.0), (4.0, 4.0)],
}


def test_gain_achieved_and_rivals():
    found = list(compare._ratios(TIMES, 1, {"first token": 5.0}))
    assert [(each["slow"], each["fast"]) for each in found] == [
        ("ours-ort dense", "ours-ort pruned"),
        ("torch-eager dense", "torch-eager pruned"),
        ("torch-eager pruned", "ours-ort pruned"),
    ]
    first = found[0]["stages"]["first token"]
    assert (first["median"], first["possible"], first["achieved"]) == (4, 5, 0.8)
    assert "achieved" not in found[0]["stages"]["vision"]
    assert "achieved" not in found[1]["stages"]["first token"]  # our graphs' FLOPs bound ours only
    assert found[2]["stages"]["first token"]["rounds"] == [3, 2]


def test_possible_is_the_ratio_of_flops():
    work = {"dense": {"vision": 2.0, "prefill": 6.0, "first token": 8.0}}
    work["pruned"] = {"vision": 2.0, "prefill": 1.0, "first token": 3.0}
    assert compare._gains(work) == {"vision": 1, "prefill": 6, "first token": 8 / 3}
    assert compare._gains(None) == {}


def test_agreement_is_with_the_first_line_of_the_same_side():
    logits = np.array([[0.0, 1.0, 0.5]])
    outputs = {
        "a dense": (None, logits),
        "a pruned": (np.array([[1, 2, 3, 4]]), logits),
        "b dense": (None, logits[:, ::-1] + 0.25),
        "b pruned": (np.array([[1, 2, 3, 9]]), logits[:, [1, 0, 2]]),
    }
    found = compare.agreement(outputs)
    assert found["a pruned"] == {"argmax": 1, "logits": 0, "kept": 1}
    assert found["b dense"] == {"argmax": 1, "logits": 0.75}
    assert found["b pruned"] == {"argmax": 0, "logits": 1, "kept": 0.75}


class Peer:
    TITLE, NEEDS, INSTALL = "a peer", (), "pip install peer"

    @staticmethod
    def ready(work, side):
        return Run(lambda: (np.ones((1, 2)), None), lambda seen: seen[0], {"compile": 3.0})


class Absent(Peer):
    NEEDS = ("no_such_package",)


class Refusing(Peer):
    @staticmethod
    def ready(work, side):
        raise UserError("needs a C++ compiler: apt-get install g++")


class Elsewhere(Peer):
    DEVICES = ("cuda",)


class Alone(Peer):
    BATCHES = (1,)


@pytest.fixture
def crew(monkeypatch):
    known = {"good": Peer, "absent": Absent, "refusing": Refusing, "elsewhere": Elsewhere, "alone": Alone}
    monkeypatch.setattr(peers, "peer", known.get)
    return list(known)


def test_who_cannot_run_says_so_in_one_line(crew, tmp_path):
    found = compare.compared(Bench(tmp_path, tmp_path), [1, 2], 2, crew)
    assert [(e["peer"], e["side"], e["batch"]) for e in found["lines"]] == [
        *((who, side, 1) for who in ("good", "alone") for side in SIDES),
        *(("good", side, 2) for side in SIDES),
    ]
    assert found["missing"] == {
        "absent": "not run: no_such_package is not installed: pip install peer",
        "refusing": "not run: needs a C++ compiler: apt-get install g++",
    }
    line = found["lines"][0]
    assert line["setup_s"] == {"compile": 3.0}
    assert [len(each["rounds"]) for each in found["lines"]] == [2, 2, 2, 2, 1, 1]
    assert line.keys() >= {"title", "rss_mib", "ready_s", "seconds", "agrees"}


def test_all_peers_say_what_they_need():
    assert peers.names()[0].startswith("ours")
    for name in peers.names():
        module = peers.peer(name)
        assert module.TITLE
        assert module.INSTALL.startswith("pip install")
        assert isinstance(module.NEEDS, tuple)
        assert callable(module.ready)


def test_prompts_hold_the_picture_behind_its_first_words(tmp_path):
    work = Work(Bench(tmp_path, tmp_path), 2)
    work.bench.config = type("Config", (), {"image_token_id": 700})
    tokens = work.tokens(3)
    assert tokens.shape == (2, 43)
    assert (tokens == 700).sum(axis=1).tolist() == [3, 3]
    assert (tokens[:, 5:8] == 700).all()
