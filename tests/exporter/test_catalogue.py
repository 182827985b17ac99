from dataclasses import dataclass

import pytest

from engines.errors import UserError
from exporter import catalogue
from exporter.catalogue import describe, listing
from exporter.reducer import Reducer


@dataclass(frozen=True)
class Toy(Reducer):
    """Keep what is new.

    score = 1 - cos(a, b)
    """

    title = "Toy"
    paper = "On Toys"
    site = "decoder"
    positions = "keep"
    differences = ("scores in fp32", "ties to the lower index")
    layer: int = 2
    ratio: float = 0.5


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(catalogue, "method_names", lambda: ["toy"])
    monkeypatch.setattr(catalogue, "method_class", lambda name: Toy)


def test_the_listing_names_every_method():
    rows = {row[0]: row for row in listing().rows}
    assert rows["fastervlm"] == ("fastervlm", "FasterVLM", "2412.01818v1", "encoder", "", "-")
    assert rows["none"][1:3] == ("Dense", "-")


def test_the_listing_shows_parameters_with_their_defaults(toy):
    assert listing().rows == (("toy", "Toy", "-", "decoder", "", "layer=2, ratio=0.5"),)


def test_a_method_in_full(toy):
    assert describe("toy").splitlines() == [
        "Toy: On Toys",
        "",
        "Keep what is new.",
        "",
        "score = 1 - cos(a, b)",
        "",
        "Site: decoder. Positions: keep. Parameters: layer=2, ratio=0.5.",
        "",
        "Differences:",
        "  - scores in fp32",
        "  - ties to the lower index",
    ]


def test_a_shipped_method_in_full():
    text = describe("fastervlm")
    assert text.startswith("FasterVLM: [CLS] Attention is All You Need")
    assert text.splitlines()[0].endswith(" (arXiv 2412.01818v1)")
    assert "Parameters: none." in text
    assert "  - patches are gathered before the projector" in text


def test_a_method_without_differences_has_no_such_section():
    assert "Differences" not in describe("none")


def test_an_unknown_method_is_an_error_of_one_line():
    with pytest.raises(UserError, match="no such method"):
        describe("nothing-like-it")
