from dataclasses import replace

import numpy as np
import pytest

from engines.contract import parse
from engines.errors import UserError
from engines.parts import Parts
from engines.prompt import Prompt
from engines.sight import Sight
from tests.engines.numpy_bundle import SEGMENT, WORDS, contract, open_numpy, picture, save_tokenizer, video
from tests.engines.numpy_model import IMAGE, NumpyModel


def make(prompt=None, **settings):
    model = NumpyModel(**settings)
    return model, Sight(Parts(parse(contract(model)), model.parts(), "fp32"), prompt)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)


def test_pictures_of_one_form_are_encoded_together_in_turns():
    model, sight = make(max_batch=2, forms=("tiles", "video"))
    square = [picture(n, (9, 9)) for n in range(3)]
    pictures = [square[0], video(2), picture(3, (40, 9)), *square[1:], video(6)]
    seen = sight.see(pictures)
    assert model.calls == ["vision", "vision", "vision.tiles", "vision.video"]
    assert [each["form"] for each in seen] == [0, 2, 1, 0, 0, 2]
    for each, one in zip(seen, pictures, strict=True):
        same(each, sight.see([one])[0])
    assert sight.see([]) == []


def test_a_part_that_takes_one_picture_gets_one_at_a_time():
    model = NumpyModel(max_batch=4)
    narrow = replace(parse(contract(model)), batches={"vision": 1})
    Sight(Parts(narrow, model.parts(), "fp32")).see([picture(n) for n in range(3)])
    assert model.calls == ["vision"] * 3


def test_a_bundle_without_videos_says_so():
    with pytest.raises(UserError, match="takes no video: give it images, or export with --input video"):
        make()[1].see([video(1)])


def noted(fed):
    """Something around parts that keeps what they are fed."""
    return lambda name, run: lambda feeds: fed.append((name, feeds)) or run(feeds)


PROMPTS = [[5, IMAGE, 13, 9], [5, 9, 10, 13, 14, 15, 16, 17, IMAGE, IMAGE, 18], [IMAGE]]


def test_the_prompts_words_reach_the_vision_part_without_placeholders():
    fed = []
    session = open_numpy(
        {"reads": "text"}, wrap=lambda name, run: lambda feeds: fed.append((name, feeds)) or run(feeds)
    )
    pictures = [picture(1)] * 3
    session.see(pictures, PROMPTS)
    (name, words), (last, looked) = fed
    assert (name, last) == ("embed", "vision")
    assert words["image_embeds"].shape == (1, 8)
    assert words["input_ids"].tolist() == [[5, 13, 9, *[0] * 6], [5, 9, 10, 13, 14, 15, 16, 17, 18], [0] * 9]
    assert looked["text_mask"].tolist() == [[1] * 3 + [0] * 6, [1] * 9, [0] * 9]
    np.testing.assert_array_equal(looked["text_embeds"], NumpyModel().weights["table"].astype("f4")[words["input_ids"]])


def test_what_is_said_decides_what_is_seen():
    _, sight = make(reads="text")
    kept = [tuple(sight.see([picture(1)], [[5, IMAGE, word]])[0]["kept_indices"]) for word in range(5, 20)]
    assert len(set(kept)) > 3


@pytest.mark.parametrize("reads", ["text", "clip"])
def test_padded_words_change_nothing(tmp_path, reads):
    save_clip(tmp_path)
    _, sight = make(Prompt(tmp_path, IMAGE), reads=reads)
    pictures, prompts = [picture(1), picture(2)], PROMPTS[:2]
    together = sight.see(pictures, prompts)
    for n in range(2):
        same(together[n], sight.see([pictures[n]], [prompts[n]])[0])


def test_a_part_that_reads_must_be_given_prompts():
    with pytest.raises(UserError, match="part 'vision' chooses by the prompt"):
        make(reads="text")[1].see([picture(1)])


def save_clip(directory):
    save_tokenizer(directory)
    (directory / "clip").mkdir()
    save_tokenizer(directory / "clip")


def test_a_question_goes_through_the_text_part_in_segments(tmp_path):
    save_clip(tmp_path)
    model = NumpyModel(reads="clip")
    fed = []
    parts = {
        name: lambda feeds, n=name, r=run: fed.append((n, feeds)) or r(feeds) for name, run in model.parts().items()
    }
    sight = Sight(Parts(parse(contract(model)), parts, "fp32"), Prompt(tmp_path, IMAGE))
    long = "what color is it and how many ?"
    sight.see([picture(1)] * 3, PROMPTS, ["red", long, "red"])
    red, asked, looked = [feeds for _, feeds in fed]  # equal questions once
    assert red["input_ids"].tolist() == [[13, 0, 0, 0, 0, 0]]
    assert red["attention_mask"].tolist() == [[1, 0, 0, 0, 0, 0]]
    ids = [WORDS.index(word) for word in long.split()]
    assert asked["input_ids"].tolist() == [ids[:SEGMENT], [*ids[SEGMENT:], *[0] * (2 * SEGMENT - len(ids))]]
    assert asked["attention_mask"].tolist() == [[1] * 6, [1] * (len(ids) - 6) + [0] * (12 - len(ids))]
    assert looked["clip_mask"].tolist() == [[1, 0], [1, 1], [1, 0]]
    assert looked["clip_text"].shape == (3, 2, 8)
    table = model.weights["table"]
    np.testing.assert_allclose(looked["clip_text"][:, 0], [table[13], table[ids[:6]].mean(0), table[13]], rtol=1e-5)


def test_without_a_question_it_is_the_prompts_text(tmp_path):
    save_clip(tmp_path)
    _, sight = make(Prompt(tmp_path, IMAGE), reads="clip")
    prompt = [5, IMAGE, *map(WORDS.index, ("what", "color", "is", "it"))]
    same(sight.see([picture(1)], [prompt])[0], sight.see([picture(1)], [prompt], ["USER what color is it"])[0])


def test_a_bundle_that_reads_questions_needs_clips_tokenizer(tmp_path):
    save_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"clip/tokenizer\.json: cannot be read"):
        make(Prompt(tmp_path, IMAGE), reads="clip")
    with pytest.raises(UserError, match="needs its tokenizers"):
        make(reads="clip")[1].see([picture(1)], [[IMAGE]])
