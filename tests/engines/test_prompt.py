import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from engines.errors import UserError
from engines.prompt import Prompt
from engines.stream import Stream
from tests.engines.numpy_bundle import save_tokenizer
from tests.engines.numpy_model import IMAGE

# Loops, blocks on lines of their own, a filter, a namespace and the generation tags: what checkpoints use.
TEMPLATE = """\
{%- set ns = namespace(turns=0) %}
{% for message in messages %}
    {% if message['role'] not in ['user', 'assistant'] %}
        {{ raise_exception('no role ' + message['role']) }}
    {% endif %}
    {% set ns.turns = ns.turns + 1 %}
{{ bos_token if loop.first else '' }}{{ message['role'].upper() + ': ' }}
    {%- for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}
    {% if message['role'] == 'user' %}
        {% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}
    {% else %}
        {% for part in message['content'] | selectattr('type', 'equalto', 'text') %}
{% generation %}{{ part['text'] | tojson }} {% endgeneration %}
            {% break %}
        {% endfor %}
    {% endif %}
{% endfor %}
{{ ns.turns }} {{ range(2) | list }}{% if add_generation_prompt %} ASSISTANT:{% endif %}
"""


def said(role, *content):
    parts = [{"type": "image"} if c is IMAGE else {"type": "text", "text": c} for c in content]
    return {"role": role, "content": parts}


TALKS = [
    [said("user", IMAGE, "what color is it ?")],
    [said("user", "what is red ?")],
    [
        said("user", IMAGE, IMAGE, "how many ?"),
        said("assistant", 'the "red" é\n'),
        said("user", IMAGE, "and ?"),
    ],
]


@pytest.fixture
def bundle(tmp_path):
    save_tokenizer(tmp_path)
    return tmp_path


def with_bos(bundle):
    """Makes the tokenizer add <s>, and names it for templates."""
    path = bundle / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(path))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    (bundle / "tokenizer_config.json").write_text(json.dumps(config))


def theirs(bundle):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(bundle / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(), tokenizer=tokenizer, patch_size=8, chat_template=TEMPLATE
    )


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("opening", [True, False])
def test_renders_and_tokenises_as_transformers(bundle, talk, opening):
    with_bos(bundle)
    (bundle / "chat_template.jinja").write_text(TEMPLATE)
    prompt, processor = Prompt(bundle, IMAGE), theirs(bundle)
    text = prompt.render(talk, add_generation_prompt=opening)
    assert text == processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=opening)
    assert "<s>USER: " in text
    # As the processor does: the template has written <s>, so the tokenizer must not.
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt.encode(text) == ids
    assert ids.count(1) == 1


def test_special_tokens_are_added_where_the_template_writes_none(bundle):
    with_bos(bundle)
    prompt = Prompt(bundle, IMAGE)
    text = "USER: what is it ?"
    assert prompt.encode(text) == theirs(bundle).tokenizer(text)["input_ids"]
    assert prompt.encode(text)[0] == 1


def test_without_a_template_the_form_is_llavas(bundle):
    prompt = Prompt(bundle, IMAGE)
    assert prompt.render(TALKS[0]) == "USER: <image>\nwhat color is it ? ASSISTANT:"
    assert prompt.render(TALKS[1]) == "USER: what is red ? ASSISTANT:"
    turns = [said("user", IMAGE, "how many ?"), said("assistant", "red"), said("user", "and ?")]
    assert prompt.render(turns) == "USER: <image>\nhow many ? ASSISTANT: red USER: and ? ASSISTANT:"
    assert prompt.render(turns[:1], add_generation_prompt=False) == "USER: <image>\nhow many ? "
    assert prompt.encode(prompt.render(TALKS[0])).count(IMAGE) == 1


def test_stored_truncation_and_padding_are_ignored(bundle):
    path = bundle / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))
    assert len(Prompt(bundle, IMAGE).encode("what color is it ?")) == 5


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", None, "cannot be read"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("chat_template.jinja", b"\xff\xfe", "not UTF-8"),
        ("tokenizer_config.json", b"{", "not valid JSON"),
        ("tokenizer_config.json", b"[]", "not a JSON object"),
    ],
)
def test_damaged_files_are_refused(bundle, name, content, reason):
    (bundle / name).unlink(missing_ok=True)
    if content is not None:
        (bundle / name).write_bytes(content)
    with pytest.raises(UserError, match=reason):
        Prompt(bundle, IMAGE)


def test_the_image_token_must_exist(bundle):
    with pytest.raises(UserError, match="no token 99"):
        Prompt(bundle, 99)


def byte_level(bundle):
    alphabet = {c: i for i, c in enumerate(["<image>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<image>", "</s>"])
    tokenizer.save(str(bundle / "tokenizer.json"))
    return Prompt(bundle, 0)


def test_stream_waits_for_whole_characters(bundle):
    prompt = byte_level(bundle)
    ids = [*prompt.encode("é 😀a"), 1]
    stream = Stream(prompt)
    pieces = [stream.push(token) for token in ids]
    assert pieces == ["", "é", " ", "", "", "", "😀", "a", ""]
    assert stream.finish() == ""


def test_stream_gives_broken_characters_in_the_end(bundle):
    prompt = byte_level(bundle)
    cut = prompt.encode("a😀")[:-1]
    stream = Stream(prompt)
    assert [stream.push(token) for token in cut] == ["a", "", "", ""]
    assert stream.finish() == prompt.decode(cut)[1:] != ""


def test_stream_puts_spaces_between_words(bundle):
    prompt = Prompt(bundle, IMAGE)
    ids = [1, *prompt.encode("the red green"), 2]
    stream = Stream(prompt)
    pieces = [stream.push(token) for token in ids]
    assert pieces == ["", "the", " red", " green", ""]
    assert "".join(pieces) == prompt.decode(ids)
