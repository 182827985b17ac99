import pytest

from engines.contract import parse
from engines.errors import UserError
from engines.settings import Settings
from engines.targets import OPTIONS, check_settings, engine_entry, engine_files, engine_label
from tests.engines.numpy_bundle import SEGMENT, SINGLE, SPLIT, contract, with_engines
from tests.engines.numpy_model import GRID, IMAGE, PATCHES, VIDEO, NumpyModel


def test_the_facts_are_taken_from_where_the_bundle_has_them():
    facts = parse(contract(NumpyModel(**SPLIT, images=3, max_batch=7, max_length=55)))
    assert facts.split
    assert (facts.images, facts.max_batch, facts.max_length) == (3, 7, 55)
    assert facts.groups == (range(1), range(1, 2))
    assert (facts.geometry.image_token_id, facts.geometry.positions, facts.segment) == (IMAGE, "keep", 0)
    (form,) = facts.geometry.forms
    assert (form.part, form.tokens, form.patches, form.grid) == ("vision", 5, PATCHES, (GRID, GRID))
    one = parse(contract(NumpyModel(**SINGLE, forms=("tiles", "video"), reads="clip")))
    assert not one.split
    assert [form.part for form in one.geometry.forms] == ["vision", "vision.tiles", "vision.video"]
    assert [form.tokens for form in one.geometry.forms] == [5, 7, 8]
    assert one.geometry.placeholders == {IMAGE, VIDEO}
    assert one.segment == SEGMENT


@pytest.mark.parametrize(
    "path", ["model.image_token_id", "limits.length", "pictures.0.tokens", "pictures.0.preprocess.mean"]
)
def test_a_missing_entry_is_named(path):
    *sections, key = path.split(".")
    raw = contract(NumpyModel())
    del inside(raw, sections)[key]
    with pytest.raises(UserError, match=key):
        parse(raw)


def inside(raw, keys):
    for key in keys:
        raw = raw[int(key) if key.isdecimal() else key]
    return raw


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("0.part", "embed"),
        ("0.part", "vision\nx"),
        ("1.part", "vision"),  # twice
        ("0.kind", "sound"),
        ("0.kind", "video"),  # without frames
        ("0.token_id", -1),
        ("0.token_id", 1.0),
        ("0.views", 0),
        ("0.views", 2),
        ("0.grid", [3]),
        ("0.grid", [3, 0]),
        ("0.grid", 9),
        ("0.tokens", True),
        ("0.tokens", 2**28),
        ("0.patches", "9"),
        ("0.mrope", {"grid": [1, 3, 4], "step": 1}),  # not as many as patches
        ("0.mrope", {"grid": [3, 3], "step": 1}),
        ("0.mrope.step", 0.5),
        ("0.preprocess", {}),
        ("0.preprocess.size", {"longest_edge": 6}),
        ("0.preprocess.size.height", 0),
        ("0.preprocess.crop", [6]),
        ("0.preprocess.resample", 9),
        ("0.preprocess.std", [1, 1, 0]),
        ("0.preprocess.mean", [1, 1, float("nan")]),
        ("0.preprocess.views", {"kind": "tiles", "rows": 1, "cols": 1, "size": [6, 6]}),
        ("0.preprocess.views", {"kind": "frames", "count": 1}),
        ("1.preprocess.views", {"kind": "sheets"}),
        ("1.preprocess.views", []),
        ("1.preprocess.views.rows", 2),
        ("1.preprocess.views.size", [6]),
        ("1.preprocess.views.size", [2**14, 2**14]),
        ("2.preprocess.views.count", 5),
        ("2.preprocess.views.count", 10**9),
        ("2.kind", "image"),
    ],
)
def test_malformed_forms_are_refused_in_one_line(path, value):
    raw = contract(NumpyModel(forms=("tiles", "video")))
    parse(raw)
    *sections, key = path.split(".")
    inside(raw["pictures"], sections)[key] = value
    with pytest.raises(UserError, match=r"^bundle\.json: missing or wrong entry \(.*\); export the bundle again$"):
        parse(raw)


@pytest.mark.parametrize("pictures", [[], {}, None, [None], [[]]])
def test_pictures_are_a_list_of_forms(pictures):
    with pytest.raises(UserError, match=r"bundle\.json"):
        parse(contract(NumpyModel()) | {"pictures": pictures})


def test_parts_and_forms_belong_together():
    raw = contract(NumpyModel(forms=("tiles",)))
    with pytest.raises(UserError, match="for pictures of vision"):
        parse(raw | {"pictures": raw["pictures"][:1]})
    del raw["parts"]["vision"]
    with pytest.raises(UserError, match=r"for pictures of vision, vision\.tiles"):
        parse(raw)
    raw = contract(NumpyModel(reads="clip"))
    del raw["parts"]["text"]
    with pytest.raises(UserError, match="no part text"):
        parse(raw)


@pytest.mark.parametrize(
    "inputs", [[], [{"name": "input_ids", "shape": [1]}], [{"name": "input_ids", "shape": [1, "L"]}]]
)
def test_a_text_part_says_how_long_its_segments_are(inputs):
    raw = contract(NumpyModel(reads="clip"))
    raw["parts"]["text"]["inputs"] = inputs
    with pytest.raises(UserError, match=r"bundle\.json"):
        parse(raw)


def test_a_cut_decoder_takes_pictures_of_one_length():
    raw = contract(NumpyModel(**SPLIT, forms=("tiles",)))
    with pytest.raises(UserError, match="tokens of the forms differ"):
        parse(raw)
    raw["pictures"][1]["tokens"] = 5
    assert parse(raw).split


def test_positions_on_three_axes_need_a_grid_for_each_form():
    raw = contract(NumpyModel(positions="mrope", forms=("tiles",)))
    raw["pictures"][1]["mrope"] = None
    with pytest.raises(UserError, match="mrope is missing"):
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


def test_engines_are_meant_by_label_by_target_or_by_the_name_of_the_only_one():
    raw = with_engines(contract(NumpyModel()))
    entry = raw["engines"].pop("trt-rtx")
    raw["engines"]["trt-rtx-sm86-sm89"] = entry
    for text in ("trt-rtx-sm86-sm89", "trt-rtx:sm86,sm89", "trt-rtx"):
        assert engine_label(raw, text) == "trt-rtx-sm86-sm89"
        assert engine_entry(raw, text) is entry
    raw["engines"]["trt-rtx-int4"] = entry
    with pytest.raises(UserError, match="several engines for trt-rtx: name one of trt-rtx-sm86-sm89, trt-rtx-int4"):
        engine_files(raw, "trt-rtx", None)
    raw["engines"]["trt-rtx"] = {**entry, "files": {}}
    assert engine_files(raw, "trt-rtx", None) == ("fp16", {})


def test_graphs_that_are_engines_need_no_entry():
    raw = with_engines(contract(NumpyModel()))
    del raw["engines"]["ort-cpu"]
    assert engine_entry(raw, "ort-cpu") == {"target": "ort-cpu"}
    assert engine_files(raw, "ort-cpu", None)[0] == "fp32"


@pytest.mark.parametrize(
    ("target", "settings", "reason"),
    [
        ("ort-cpu", Settings(refittable=True), "target ort-cpu builds no plan: drop --refittable"),
        (
            "trt-rtx",
            Settings(workspace_mib=1, hardware="ampere+"),
            "cannot be built so: drop --hardware-compatible, --w",
        ),
    ],
)
def test_settings_that_a_builder_does_not_honour_are_refused(target, settings, reason):
    check_settings(target, Settings())
    check_settings("trt", settings)
    with pytest.raises(UserError, match=reason):
        check_settings(target, settings)


def test_every_setting_has_an_option():
    assert OPTIONS.keys() == Settings.__dataclass_fields__.keys()


def test_engines_may_take_less_than_the_graphs():
    facts, limits = parse(contract(NumpyModel(max_batch=7))), contract(NumpyModel())["limits"]
    batches = {"vision": 1, "embed": 3, "decoder": 9}
    narrow = facts.narrowed({"batch": batches, "limits": {**limits, "batch": 3, "length": 20}})
    assert (narrow.max_batch, narrow.max_length) == (3, 20)
    assert [narrow.at_once(part) for part in batches] == [1, 3, 3]
    assert facts.at_once("vision") == 7
    for entry in ({}, {"batch": batches}, {"batch": {"vision": 0}, "limits": limits}):
        with pytest.raises(UserError, match=r"bundle\.json"):
            facts.narrowed(entry)


@pytest.mark.parametrize("limits", [None, {}, {"batch": 0, "length": 1, "tokens": 1, "images": 1, "fixed": 0}])
def test_limits_are_whole_numbers(limits):
    with pytest.raises(UserError, match=r"bundle\.json"):
        parse(contract(NumpyModel()) | {"limits": limits})


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
