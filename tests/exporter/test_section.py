from pathlib import Path
from types import SimpleNamespace

import pytest

from engines.errors import UserError
from exporter.section import LARGEST, Section, shown

VALUES = {"n": 4, "part": 3, "x": 0.5, "on": True, "text": "a", "three": [0, 0.5, 1], "none": None}


@pytest.fixture(params=[VALUES, SimpleNamespace(**VALUES)], ids=["dict", "object"])
def section(request):
    return Section(Path("c.json"), "part", request.param)


def refuse(ask, says):
    with pytest.raises(UserError) as caught:
        ask()
    assert str(caught.value).startswith("c.json: part.")
    assert says in str(caught.value)


def test_good_values_come_back(section):
    assert section.whole("n") == 4
    assert section.whole("gone", 7) == 7
    assert section.number("x") == 0.5
    assert section.number("n") == 4.0
    assert section.three("three") == [0.0, 0.5, 1.0]
    assert section.one_of("on", (True,)) is True
    assert section.one_of("gone", ("b",), "b") == "b"


def test_bad_values_are_named(section):
    refuse(lambda: section.whole("gone"), "gone is missing")
    refuse(lambda: section.whole("n", least=5), f"n is 4, not a whole number from 5 to {LARGEST}")
    for key in ("x", "on", "text", "none", "three"):
        refuse(lambda key=key: section.whole(key), f"{key} is ")
    for key in ("on", "text", "none"):
        refuse(lambda key=key: section.number(key), "not a positive number")
    refuse(lambda: section.number("gone", float("inf")), "gone is inf")
    refuse(lambda: section.number("gone", 10**400), "not a positive number")
    refuse(lambda: section.three("three", positive=True), "every number must be positive")
    refuse(lambda: section.three("n"), "not three numbers")
    refuse(lambda: section.multiple("n", "part"), "n is 4, not a multiple of part 3")
    refuse(lambda: section.one_of("n", (4.0, "4")), "n is 4; supported: 4.0, 4")


def test_one_is_not_true(section):
    refuse(lambda: section.one_of("on", (1,)), "on is True; supported: 1")


def test_long_values_are_cut():
    assert shown("x" * 1000) == "'" + "x" * 56 + "…"
