import pytest

from engines.contract import engine_files, parse
from engines.errors import UserError
from tests.engines.numpy_bundle import SINGLE, SPLIT, contract, with_engines
from tests.engines.numpy_model import IMAGE, PATCHES, NumpyModel


def test_the_facts_are_taken_from_where_the_bundle_has_them():
    facts = parse(contract(NumpyModel(**SPLIT, images=3, max_batch=7, max_length=55)))
    assert facts.split
    assert (facts.images, facts.max_batch, facts.max_length) == (3, 7, 55)
    assert facts.groups == (range(1), range(1, 2))
    assert facts.geometry.image_token_id == IMAGE
    assert (facts.geometry.embedded, facts.geometry.patches, facts.geometry.keep_positions) == (
        5,
        PATCHES,
        True,
    )
    one = parse(contract(NumpyModel(**SINGLE)))
    assert not one.split
    assert not one.geometry.keep_positions


@pytest.mark.parametrize("path", ["model.image_token_id", "recipe.max_length", "preprocess.mean", "tokens.embedded"])
def test_a_missing_entry_is_named(path):
    section, key = path.split(".")
    raw = contract(NumpyModel())
    del raw[section][key]
    with pytest.raises(UserError, match=key):
        parse(raw)


def test_wrong_values_are_refused():
    raw = contract(NumpyModel())
    for wrong in ({"positions": "slot"}, {"model": None}, {"groups": [{"layers": "many"}]}, {"parts": []}):
        with pytest.raises(UserError, match=r"bundle\.json"):
            parse(raw | wrong)


def test_a_target_brings_its_own_precision_and_files():
    raw = with_engines(contract(NumpyModel()))
    assert engine_files(raw, "ort-cpu", None) == engine_files(raw, "ort-cpu", "fp32")
    assert engine_files(raw, "ort-cpu", None)[0] == "fp32"
    dtype, files = engine_files(raw, "trt-rtx", None)
    assert (dtype, files["decoder"]) == ("fp16", "engines/trt-rtx/decoder.plan")


def test_graphs_that_are_engines_come_in_every_precision():
    dtype, files = engine_files(with_engines(contract(NumpyModel())), "ort-cpu", "fp16")
    assert (dtype, files["vision"]) == ("fp16", "onnx/vision.fp16.onnx")


@pytest.mark.parametrize(
    ("target", "dtype", "reason"),
    [
        ("trt", None, "no engines for trt; it has ort-cpu, trt-rtx"),
        ("trt-rtx", "fp32", "are fp16, not fp32"),
        ("ort-cpu", "bf16", "no bf16 files"),
    ],
)
def test_engines_that_are_not_there_are_refused(target, dtype, reason):
    with pytest.raises(UserError, match=reason):
        engine_files(with_engines(contract(NumpyModel())), target, dtype)
