import base64
import re
from html.parser import HTMLParser

import pytest

from engines.report import write_report
from engines.tables import Table

BUNDLE = {
    "tp_export": "0.1.0",
    "created": "2030-01-01",
    "recipe": {"method": "fastervlm", "keep": 64},
    "model": {"name": "demo"},
    "pictures": [{"patches": 144, "tokens": 64}],
    "engines": {"ort-cpu": {}, "trt-rtx": {}},
    "parity": {"verdict": "pass"},
}
PNG = b"\x89PNG\r\n\x1a\n and more"
EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Collects cells, visible text and every address the page would fetch; counts unclosed tags."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.text, self.sources, self.open = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture
def write(tmp_path):
    def write_with(tables=(), **changes):
        write_report({**BUNDLE, **changes}, tables, PNG, tmp_path / "report.html")
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write_with


def test_title_tables_and_notes(write):
    table = Table("Costs", ("what", "ratio"), (("cache", "x5.9"), ("verdict", "pass")), "One prompt.")
    page = Page(write([table]))
    assert not page.open
    assert page.cells == ["what", "ratio", "cache", "x5.9", "verdict", "pass"]
    for words in ("fastervlm keeps 64 of 144 patches of demo", "Costs", "One prompt.", "ort-cpu, trt-rtx"):
        assert words in page.text


def test_the_page_needs_nothing_beside_it(write):
    text = write()
    (source,) = Page(text).sources
    assert source == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert not re.search(r"url\(|@import|https?:", text)


def test_names_of_strangers_are_escaped(write):
    text = write([Table(EVIL, (EVIL,), ((EVIL,),), EVIL)], model={"name": EVIL}, engines={EVIL: {}})
    assert "<script" not in text
    assert Page(text).text.count(EVIL) == 7


def test_verdict_is_shown_as_it_is(write):
    assert '<span class="verdict pass">pass</span>' in write()
    assert '<span class="verdict fail">fail</span>' in write(parity={"verdict": "fail"})


def test_without_a_budget_all_patches_are_kept(write):
    assert "none keeps all of 144 patches" in Page(write(recipe={"method": "none", "keep": None})).text
