"""What is measured is read back, printed, drawn and filled in."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.commands.report import ALT, MARKS, filled
from benchmarks.report import told
from engines.errors import UserError

STAGES = ("vision", "prefill", "first token")
ABOUT = {
    "command": "python -m benchmarks speed",
    "machine": {"cpu": "A CPU", "cpus": 2, "system": "Linux", "load": 0.0},
    "versions": {"torch": "2.13.0"},
}


def spread(median):
    return {"median": median, "min": 0.9 * median, "max": 1.2 * median}


def line(peer, side, *seconds):
    told = dict(zip(STAGES, map(spread, seconds), strict=True))
    return {"peer": peer, "title": f"{peer}, engine", "side": side, "batch": 1, "seconds": told, "rounds": []}


@pytest.fixture
def speed():
    lines = [line("ours-ort", "dense", 0.4, 1.6, 2.0), line("ours-ort", "pruned", 0.4, 0.1, 0.5)]
    lines.append(line("torch-eager", "pruned", 0.8, 0.2, 1.0))
    own = {"median": 4.0, "min": 3.5, "max": 4.5, "rounds": [4.0], "possible": 4.1, "achieved": 4 / 4.1}
    rival = {"median": 2.0, "min": 1.9, "max": 2.1, "rounds": [2.0]}
    pairs = [("ours-ort dense", "ours-ort pruned", own), ("torch-eager pruned", "ours-ort pruned", rival)]
    ratios = [{"batch": 1, "slow": a, "fast": b, "stages": {"first token": ratio}} for a, b, ratio in pairs]
    missing = {"late": "not run: late is not installed: pip install late"}
    return {"kind": "speed", **ABOUT, "lines": lines, "ratios": ratios, "missing": missing, "flops": {}}


def test_the_table_has_every_line_and_who_is_missing(speed):
    text = told(speed)
    assert "| ours-ort, engine | 2000 (400 + 1600) | 500 (400 + 100) | x4.00 (3.50 to 4.50) | 98% of x4.10 |  |" in text
    assert "| torch-eager, engine |  | 1000 (800 + 200) |  |  | x2.00 (1.90 to 2.10) |" in text
    assert "late: not run: late is not installed: pip install late" in text
    assert text.endswith("`python -m benchmarks speed` on 2 CPUs (A CPU); torch 2.13.0.")


def test_a_gpu_adds_its_ceiling(speed):
    top = {"gpu": "H200", "flop_ratio": 5.98, "prefill": 3.31, "first token": 3.01, "64 tokens": 1.06}
    text = told({**speed, "kind": "gpu", "ceiling": {"1": top}})
    assert "Ceiling of H200 at batch 1: prefill x3.31, first token x3.01, 64 tokens x1.06" in text


def test_shares_of_a_selection():
    cell = {"share": {"median": 0.004, "min": 0.003, "max": 0.006}, "flops_share": 0.0001}
    found = {"kind": "selection", **ABOUT, "model": "llava-1.5", "patches": 576, "keeps": [64, 128]}
    text = told({**found, "methods": {"fastervlm": {"64": cell}}, "missing": {"fastv": "not run: no cut"}})
    assert "| fastervlm | 0.40% (0.30% to 0.60%), 0.01% of FLOPs |  |" in text
    assert "fastv: not run: no cut" in text


def test_report_prints_draws_and_fills_in(speed, tmp_path, capsys):
    file, plot, page = tmp_path / "speed.json", tmp_path / "docs/speed.png", tmp_path / "README.md"
    file.write_text(json.dumps(speed))
    mark = MARKS.format(kind="speed")
    page.write_text(f"before\n{mark}old\n{mark}behind\n")
    for _ in range(2):  # a second time replaces the first
        assert main(["report", str(file), "--plot", str(plot), "--readme", str(page)]) == 0
        assert page.read_text() == f"before\n{mark}![{ALT}](docs/speed.png)\n\n{told(speed)}\n{mark}behind\n"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert told(speed) in capsys.readouterr().out


def test_a_page_without_marks_is_refused():
    with pytest.raises(UserError, match="no two lines '<!-- benchmarks: speed -->'"):
        filled("a page", "speed", "a table")


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "give a file that --out wrote"), ("{}", "none of speed, selection")]
)
def test_other_files_are_refused_in_one_line(text, reason, tmp_path, capsys):
    file = tmp_path / "odd.json"
    file.write_text(text)
    assert main(["report", str(file)]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1
