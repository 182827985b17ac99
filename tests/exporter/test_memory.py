import pytest
from rich.console import Console

from engines.errors import UserError
from exporter import memory
from exporter.draft import Draft
from exporter.export import export
from exporter.eyes import eyes, numbers
from exporter.recipe import Recipe


def draft(**more):
    return Draft.of(Recipe(method="fastervlm", keep="64", targets=("ort-cpu",), **more))


def test_what_sees_is_a_part_of_the_whole():
    found = draft()
    whole, seen = numbers(found, whole=True), numbers(found, whole=False)
    assert whole == sum(parameter.numel() for parameter in found.family.reference(found.checkpoint.dir).parameters())
    assert 0 < seen < whole


def test_eyes_hold_the_checkpoint_s_numbers_and_no_layer_of_the_decoder():
    found = draft()
    stock = dict(found.family.reference(found.checkpoint.dir).named_parameters())
    seeing = dict(eyes(found).named_parameters())
    assert seeing.keys() == stock.keys()
    for name, parameter in seeing.items():
        if ".language_model.layers." in name or name.startswith("lm_head"):
            assert parameter.is_meta
        else:
            assert parameter.equal(stock[name])


@pytest.mark.parametrize(("mode", "advice"), [("full", "--parity vision compares"), ("vision", "--parity none")])
def test_too_little_memory_is_one_line_before_any_work(tmp_path, monkeypatch, mode, advice):
    monkeypatch.setattr(memory, "available", lambda: 10**5)
    monkeypatch.setattr(memory, "LARGE", 0)
    with pytest.raises(UserError, match=rf"--parity {mode}: .* GiB are free: {advice}") as caught:
        export(Recipe(method="fastervlm", keep="64", parity=mode), tmp_path / "out", Console(quiet=True))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["none", "full"])
def test_nothing_is_asked_where_it_does_not_matter(monkeypatch, mode):
    monkeypatch.setattr(memory, "available", lambda: 10**5 if mode == "none" else None)
    monkeypatch.setattr(memory, "LARGE", 0)
    memory.check_memory(draft(parity=mode), 2)
