import io
import re

import pytest
from rich.console import Console

from exporter.progress import Reporter


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
