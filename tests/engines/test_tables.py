import io

import pytest
from rich.console import Console

from engines.tables import Table, print_tables
from engines.units import amount, milliseconds, size, times


def printed(*tables):
    console = Console(file=io.StringIO(), width=100)
    print_tables(tables, console)
    return console.file.getvalue()


def test_cells_titles_and_notes_are_printed():
    text = printed(Table("Costs", ("what", "now"), (("cache", "52 MiB"), ("work", "1.35 TFLOP")), "One prompt."))
    for word in ("Costs", "what", "now", "cache", "52 MiB", "work", "1.35 TFLOP", "One prompt."):
        assert word in text


def test_cells_are_text_not_markup():
    text = printed(Table("[red]T[/red]", ("[b]c",), (("[link=http://x]evil[/link]",),), "[i]n"))
    for raw in ("[red]T[/red]", "[b]c", "[link=http://x]evil[/link]", "[i]n"):
        assert raw in text


def test_figures_are_set_flush_right():
    table = Table("T", ("name", "ratio", "left"), (("a", "x5.98", "1 s"), ("b", "12", "none")))
    assert table.numeric == (False, True, False)
    line = next(line for line in printed(table).splitlines() if " 12 " in line)
    assert "   12 " in line  # padded on the left to the width of 'x5.98'
    assert Table("T", ("a",), ()).numeric == (False,)


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="'T': 1 cells under 2 columns"):
        Table("T", ("a", "b"), (("1",),))


def test_units():
    assert [amount(v, "FLOP") for v in (8.078e12, 390e9, 999.96e6, 12)] == [
        "8.08 TFLOP", "390 GFLOP", "1 GFLOP", "12 FLOP",
    ]  # fmt: skip
    assert [size(v) for v in (308 * 2**20, 34.5 * 2**20, 1023, 2048)] == [
        "308 MiB",
        "34.5 MiB",
        "1023 B",
        "2 KiB",
    ]
    assert (milliseconds(0.00309), milliseconds(0.19), times(5.977)) == ("3.09 ms", "190 ms", "x5.98")
