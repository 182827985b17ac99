import numpy as np
import pytest

from engines.chat import Chat
from engines.errors import UserError
from engines.prompt import Prompt
from engines.session import Session
from tests.engines.numpy_bundle import EOS, contract, picture, save_tokenizer, video
from tests.engines.numpy_model import IMAGE, NumpyModel

SINGLE = {"positions": "keep"}
SPLIT = {"positions": "keep", "second": 2}


@pytest.fixture
def make(tmp_path):
    save_tokenizer(tmp_path)

    def build(settings, template=None):
        if template:
            (tmp_path / "chat_template.jinja").write_text(template)
        model = NumpyModel(**settings)
        return model, Chat(Session(contract(model), model.parts(), Prompt(tmp_path, IMAGE)))

    return build


def scripted(*tokens):
    """A sampler that says these tokens, whatever the logits."""
    left = iter(tokens)
    return lambda _: np.array([next(left)])


def noting(seen, *tokens):
    """As `scripted`; keeps the logits."""
    say = scripted(*tokens)

    def pick(logits):
        seen.append(logits.copy())
        return say(logits)

    return pick


def ask(chat, question, images=(), said=(13, EOS), logits=None):
    """Asks; returns the text, and keeps the first logits of the answer."""
    seen = []
    text = "".join(chat.ask(question, images, sampler=noting(seen, *said)))
    return text, seen[0]


def recomputed(make, settings, text, pictures):
    """The logits behind a whole conversation that is fed at once."""
    _, chat = make(settings)
    session = chat._session
    return session.prefill([session.prompt.encode(text)], [pictures])[1]


def close(said, whole):
    assert said[0, IMAGE] == -np.inf  # placeholders are ruled out by the session before a token is picked
    sayable = np.isfinite(said)
    assert sayable.sum() >= said.shape[1] - 2
    np.testing.assert_allclose(said[sayable], whole[sayable], rtol=1e-4, atol=2e-5)


TURN_1 = "USER: <image>\nwhat color is it ? ASSISTANT:"
TURN_2 = TURN_1 + " red green USER: and blue ? ASSISTANT:"
TURN_3 = TURN_2 + " the USER: <image>\nhow many ? ASSISTANT:"


@pytest.mark.parametrize("settings", [{}, SINGLE, SPLIT])
def test_every_turn_gives_what_the_whole_conversation_gives(make, settings):
    model, chat = make(settings)
    a, b = picture(1), picture(2)
    text, logits = ask(chat, "what color is it ?", [a], said=(13, 14, EOS))
    assert text == "red green"
    close(logits, recomputed(make, settings, TURN_1, [a]))
    text, logits = ask(chat, "and blue ?", said=(17, EOS))
    assert text == "the"
    close(logits, recomputed(make, settings, TURN_2, [a]))
    _, logits = ask(chat, "how many ?", [b])
    close(logits, recomputed(make, settings, TURN_3, [a, b]))
    assert model.calls.count("vision") == 2  # each picture once


@pytest.mark.parametrize("settings", [SINGLE, SPLIT])
def test_a_follow_up_feeds_only_what_is_new(make, settings):
    model, chat = make(settings)
    ask(chat, "what color is it ?", [picture(1)], said=(13, 14, EOS))
    slots = chat._state.slots
    model.calls.clear()
    ask(chat, "and blue ?", said=(EOS,))
    assert model.calls == ["decode" if model.second else "decoder"]  # one call for the whole question
    assert chat._state.slots - slots == 7  # USER : and blue ? ASSISTANT :


def test_a_split_decoder_starts_again_for_a_new_picture(make):
    model, chat = make(SPLIT)
    ask(chat, "what color is it ?", [picture(1)])
    model.calls.clear()
    ask(chat, "and it ?", [picture(2)], said=(EOS,))
    assert model.calls == ["vision", "prefill"]


# This template writes the answer's words in another way than they were said: "red" comes back as "the".
REWRITES = """\
{%- for m in messages %}{{ m.role | upper }}: {% for p in m.content %}
{%- if p.type == 'image' %}<image> {% elif m.role == 'user' %}{{ p.text }} \
{% else %}{{ p.text.replace('red', 'the') }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"""


@pytest.mark.parametrize(("settings", "calls"), [(SINGLE, ["decoder"]), (SPLIT, ["prefill"])])
def test_a_conversation_that_is_rewritten_is_fed_again_from_there(make, settings, calls):
    model, chat = make(settings, REWRITES)
    a = picture(1)
    ask(chat, "what color is it ?", [a], said=(13, 14, EOS))
    model.calls.clear()
    _, logits = ask(chat, "and blue ?", said=(EOS,))
    assert model.calls == calls
    text = "USER: <image> what color is it ? ASSISTANT: the green USER: and blue ? ASSISTANT:"
    close(logits, recomputed(make, settings, text, [a]))


@pytest.mark.parametrize("settings", [SINGLE, SPLIT])
def test_an_answer_cut_short_by_its_limit_or_by_the_listener_is_kept_as_said(make, settings):
    _, chat = make(settings)
    a = picture(1)
    assert "".join(chat.ask("what color is it ?", [a], 2, scripted(13, 14, 15))) == "red green"
    answer = chat.ask("and blue ?", sampler=scripted(17, 13))
    assert next(answer) == "the"
    answer.close()
    _, logits = ask(chat, "how many ?")
    text = TURN_2 + " the USER: how many ? ASSISTANT:"
    close(logits, recomputed(make, settings, text, [a]))


@pytest.mark.parametrize("settings", [SINGLE, SPLIT])
def test_text_alone_and_several_pictures(make, settings):
    _, chat = make(settings)
    _, logits = ask(chat, "what is red ?")
    close(logits, recomputed(make, settings, "USER: what is red ? ASSISTANT:", []))
    _, logits = ask(chat, "and it ?", [picture(1), picture(2)])
    text = "USER: what is red ? ASSISTANT: red USER: <image>\n<image>\nand it ? ASSISTANT:"
    close(logits, recomputed(make, settings, text, [picture(1), picture(2)]))


@pytest.mark.parametrize("settings", [SINGLE, SPLIT])
def test_a_question_that_is_too_long_leaves_the_conversation_as_it_was(make, settings):
    model, chat = make({**settings, "max_length": 45})
    a = picture(1)
    ask(chat, "what color is it ?", [a], said=(13, 14, EOS))
    model.calls.clear()
    with pytest.raises(UserError, match="too long"):
        next(chat.ask("and " * 60))
    assert model.calls == []
    _, logits = ask(chat, "and blue ?")
    close(logits, recomputed(make, settings, TURN_2, [a]))


NAMES_KINDS = """\
{%- for m in messages %}{{ m.role | upper }}: {% for p in m.content %}
{%- if p.type == 'text' %}{{ p.text }} {% else %}<{{ p.type }}> {% endif %}{% endfor %}{% endfor %}ASSISTANT:"""


@pytest.mark.parametrize("positions", ["renumber", "keep", "mrope"])
def test_pictures_of_several_forms_and_empty_slots_stay_in_the_conversation(make, positions):
    settings = {"positions": positions, "forms": ("tiles", "video"), "empty": 2}
    _, chat = make(settings, NAMES_KINDS)
    wide, film, tall = picture(1, (40, 9)), video(2), picture(3, (9, 9))
    ask(chat, "what color is it ?", [wide, film])
    _, logits = ask(chat, "and it ?", [tall])
    text = "USER: <image> <video> what color is it ? ASSISTANT: red USER: <image> and it ? ASSISTANT:"
    close(logits, recomputed(make, settings, text, [wide, film, tall]))


def test_pictures_that_the_template_rewrites_are_fed_again(make):
    rewrites = NAMES_KINDS.replace("{{ m.role", "{{ messages | length }} {{ m.role")
    settings = {"forms": ("tiles",), "empty": 2}
    model, chat = make(settings, rewrites)
    wide, tall = picture(1, (40, 9)), picture(3, (9, 9))
    ask(chat, "what color is it ?", [wide, tall])
    model.calls.clear()
    _, logits = ask(chat, "and it ?", [tall], said=(EOS,))
    assert model.calls == ["vision", "decoder"]
    text = "3 USER: <image> <image> what color is it ? 3 ASSISTANT: red 3 USER: <image> and it ? ASSISTANT:"
    close(logits, recomputed(make, settings, text, [wide, tall, tall]))


def test_a_template_that_loses_a_picture_is_refused(make):
    _, chat = make(SINGLE, "{{ messages[0].content[-1].text }}")
    with pytest.raises(UserError, match=r"0 image token\(s\) but 1 picture"):
        next(chat.ask("what ?", [picture(1)]))


def test_an_answer_ends_where_the_cache_does(make):
    model, chat = make({"max_length": 20})
    text = "".join(chat.ask("what color is it ?", [picture(1)], sampler=lambda _: np.array([13])))
    fed = 20 - (1 + 9 + 5)  # a dummy slot, nine words and signs, the picture's rows
    assert text.split() == ["red"] * (fed + 1)  # the last one needs no slot
    assert chat._state.slots == 20
    assert model.calls == ["vision"] + ["decoder"] * (1 + fed)


EVICTING = {"second": 5, "keep": 5, "evict": 22}


def test_a_conversation_that_evicts_goes_on_over_its_cache(make):
    model, chat = make(EVICTING)
    ask(chat, "what color is it ?", [picture(1)], said=(13, 14, EOS))
    for calls, slots in ((["decode"], 21 + 7), (["evict", "decode"], 22 + 7), (["evict", "decode"], 22 + 7)):
        model.calls.clear()
        ask(chat, "and blue ?", said=(EOS,))
        assert model.calls == calls
        assert chat._state.slots == slots


def test_evicted_caches_go_on_though_the_template_rewrites_what_was_said(make):
    model, chat = make(EVICTING, REWRITES)
    ask(chat, "what color is it ?", [picture(1)], said=(13, 14, 15, 16, EOS))
    model.calls.clear()
    ask(chat, "and blue ?", said=(EOS,))
    assert model.calls == ["evict", "decode"]
    assert chat._state.slots == 22 + 7  # USER : and blue ? ASSISTANT :


def test_buckets_hold_a_conversation_until_it_outgrows_the_cache(make):
    """A new picture is read with all that was said, in a longer bucket."""
    settings = {"positions": "keep", "second": 5, "buckets": (24, 48), "max_length": 60}
    model, chat = make(settings)
    ask(chat, "what color is it ?", [picture(1)], said=(13, 14, EOS))
    ask(chat, "and blue ?", said=(EOS,))
    _, logits = ask(chat, "how many ?", [picture(2)], said=(EOS,))
    assert [call for call in model.calls if call.startswith(("prefill", "decode"))] == [
        "prefill.24", "decode", "decode", "decode", "prefill.48",
    ]  # fmt: skip
    text = TURN_2 + " USER: <image>\nhow many ? ASSISTANT:"
    close(logits, recomputed(make, SINGLE, text, [picture(1), picture(2)]))
