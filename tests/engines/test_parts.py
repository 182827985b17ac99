import numpy as np
import pytest

from engines.contract import parse
from engines.errors import UserError
from engines.parts import Parts
from engines.sight import Sight
from tests.engines.numpy_bundle import PICTURES, PROMPTS, SPLIT, contract, open_numpy, picture
from tests.engines.numpy_model import NumpyModel


def make(dtype="fp32", **settings):
    model = NumpyModel(**settings)
    return Parts(parse(contract(model)), model.parts(), dtype)


def test_carried_scores_stand_by_prompt_and_picture():
    parts = make(**SPLIT)
    seen = Sight(parts).see([picture(n) for n in range(3)])
    carried = parts.carried("prefill", [1, 0, 2], seen)["carry.score"]
    scores = [each["carry.score"] for each in seen]
    zero = np.zeros_like(scores[0])
    np.testing.assert_array_equal(carried, [[scores[0], zero], [zero, zero], [scores[1], scores[2]]])
    assert not parts.carried("prefill", [0], [])["carry.score"].any()


def test_half_precision_reaches_the_parts():
    seen = {}

    def note(part, run):
        def noted(feeds):
            seen.update({f"{part}.{name}": array.dtype for name, array in feeds.items()})
            return run(feeds)

        return noted

    session = open_numpy({}, dtype="fp16", wrap=note)
    session.prefill(PROMPTS[:1], PICTURES[:1])
    assert seen["vision.pixel_values"] == seen["decoder.past_key_values.0.key"] == np.float16
    assert seen["decoder.position_ids"] == seen["embed.input_ids"] == np.int64


def test_missing_parts_inputs_and_precisions_are_refused():
    model = NumpyModel()
    raw = contract(model)
    with pytest.raises(UserError, match="decoder"):
        Parts(parse(raw), {"vision": model.vision, "embed": model.embed}, "fp32")
    with pytest.raises(UserError, match="fp64"):
        make("fp64")
    raw["parts"]["embed"]["inputs"].append({"name": "mystery", "dtype": "float32", "shape": []})
    with pytest.raises(UserError, match="'embed' wants mystery"):
        Parts(parse(raw), model.parts(), "fp32").embed(np.array([[5]]), [])


def test_whole_numbers_get_the_type_that_the_contract_says():
    model = NumpyModel()
    raw, seen = contract(model), {}
    raw["parts"]["embed"]["inputs"][0]["dtype"] = "int32"

    def embed(feeds):
        seen.update({name: array.dtype for name, array in feeds.items()})
        return model.embed(feeds)

    parts = Parts(parse(raw), model.parts() | {"embed": embed}, "fp32")
    parts.embed(np.array([[1, 5]]), [])
    assert seen == {"input_ids": np.int32, "image_embeds": np.float32}
