import io
import re

import pytest
from rich.console import Console

from exporter.progress import LARGE, Reporter


def console(*, terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def test_a_log_gets_one_plain_line_a_stage():
    log = console(terminal=False)
    with Reporter(log, 12) as report:
        with report.step("trace vision in fp32"):
            pass
        with report.step("build [vision] for trt-rtx:sm86") as step:
            step.note = "unchanged, reused"
    text = log.file.getvalue()
    assert re.sub(r"\d+\.\d s", "T s", text).splitlines() == [
        "[ 1/12] trace vision in fp32: T s",
        "[ 2/12] build [vision] for trt-rtx:sm86: T s (unchanged, reused)",
    ]
    assert "\x1b" not in text
    assert "\r" not in text


def test_stages_are_counted_and_timed():
    with Reporter(console(terminal=False), 2) as report, report.step("one"):
        pass
    assert report.done == 1
    assert report.times.keys() == {"one"}
    assert 0 <= report.times["one"] < 60


def test_a_failed_stage_is_not_reported_as_done():
    log = console(terminal=False)
    with pytest.raises(ValueError, match="broken"), Reporter(log, 2) as report, report.step("one"):
        raise ValueError("broken")
    assert report.done == 0
    assert log.file.getvalue() == ""


def test_a_terminal_shows_a_bar_and_keeps_the_lines():
    screen = console(terminal=True)
    with Reporter(screen, 3) as report, report.step("trace [embed]"):
        pass
    text = screen.file.getvalue()
    assert re.search(r"\[ 1/3\] trace \[embed\]: \d+\.\d s", text)
    assert "1/3" in text.replace("[ 1/3]", ""), "the bar's own count"


def test_a_bar_does_not_outlive_a_failure():
    screen = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), Reporter(screen, 3) as report, report.step("one"):
        raise KeyboardInterrupt
    assert "\x1b[?25h" in screen.file.getvalue(), "the cursor is back"


def test_bytes_on_their_way_are_a_line_at_every_tenth():
    log = console(terminal=False)
    with Reporter(log, 1) as report, report.step("copy [weights]") as step:
        for done in range(0, 2 * LARGE + 1, LARGE // 50):
            step.tell(2 * LARGE, 0, done)
    lines = log.file.getvalue().splitlines()
    assert lines[0] == "        copy [weights]: 0.2 of 2.0 GB"
    assert lines[9] == "        copy [weights]: 2.0 of 2.0 GB"
    assert len(lines) == 11


def test_few_bytes_are_not_worth_a_line():
    log = console(terminal=False)
    with Reporter(log, 1) as report, report.step("copy") as step:
        step.tell(LARGE, 0, LARGE)
    assert len(log.file.getvalue().splitlines()) == 1


def test_a_terminal_shows_bytes_in_the_bar_alone():
    screen = console(terminal=True)
    with Reporter(screen, 1) as report, report.step("copy") as step:
        step.tell(2 * LARGE, LARGE, LARGE // 2)
        report._bar.refresh()
    assert "copy 1.5 of 2.0 GB" in screen.file.getvalue()
    assert "        copy: " not in screen.file.getvalue()
