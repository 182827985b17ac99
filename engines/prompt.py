"""From a conversation to token ids and back: the checkpoint's own chat template and tokenizer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engines.errors import UserError
from engines.geometry import Geometry
from engines.json_file import read_object
from engines.template import Template

# LLaVA-1.5's form, for checkpoints without a template.
DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
{{ message.role | upper }}: {% for part in message.content if part.type != 'text' -%}
{{ video_token if part.type == 'video' else image_token }}
{% endfor %}
{%- for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif -%}
"""
TEXT_TEMPLATE = """\
{%- for message in messages -%}
{{ message.role | upper }}: {{ message.content }} {% endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif -%}
"""
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_BYTES = 200_000_000
Messages = Sequence[Mapping[str, Any]]


class Prompt:
    """Template and tokenizer of a bundle.

    Args:
        directory: Holds tokenizer.json, and perhaps chat_template.jinja and tokenizer_config.json, which
            names the special tokens that templates may use.
        image_token_id: The token that stands for one picture; None where the model reads text only.
        template: A chat template to use instead.
        video_token_id: The token that stands for one video, if there are any.

    Raises:
        UserError: A file is missing or damaged, or the tokenizer has no such token.
    """

    def __init__(
        self,
        directory: Path,
        image_token_id: int | None,
        template: str | None = None,
        video_token_id: int | None = None,
    ) -> None:
        self.directory, self._path = directory, directory / "tokenizer.json"
        self._tokenizer = open_tokenizer(self._path)
        tokens = {"image": image_token_id, "video": video_token_id}
        known = {f"{kind}_token": self._token(kind, number) for kind, number in tokens.items() if number is not None}
        path = directory / "chat_template.jinja"
        if template is None:
            template = read_text(path) if path.exists() else DEFAULT_TEMPLATE if known else TEXT_TEMPLATE
        self._plain = not known
        self._template = Template(template, f"{directory}'s chat template")
        named = _named_tokens(directory / "tokenizer_config.json")
        self._values = {"tools": None, "documents": None, **named, **known}
        self._bos: str | None = named.get("bos_token")

    @classmethod
    def of(cls, directory: Path, geometry: Geometry) -> "Prompt":
        """Of a bundle with this geometry."""
        return cls(directory, geometry.image_token_id, video_token_id=geometry.video_token_id)

    def _token(self, kind: str, number: int) -> str:
        found: str | None = self._tokenizer.id_to_token(number)
        if found is None:
            raise UserError(f"{self._path}: has no token {number}, the {kind} token")
        return found

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """Writes a conversation as the text that the model was trained on.

        Args:
            messages: [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]}, …].
            add_generation_prompt: End with the opening of the assistant's turn.

        Raises:
            UserError: The template refuses the conversation.
        """
        plain = json.loads(json.dumps(messages))  # an untrusted template gets no objects
        if self._plain:  # templates of text models expect a text, not a list of parts
            plain = [{**each, "content": "\n".join(part["text"] for part in each["content"])} for each in plain]
        return self._template.render(
            {**self._values, "messages": plain, "add_generation_prompt": add_generation_prompt}
        )

    def encode(self, text: str) -> list[int]:
        """Tokenises rendered text; special tokens are added unless the template has written the first.

        Raises:
            UserError: The text holds half a character, or the tokenizer contradicts itself.
        """
        check_text(text)
        written = self._bos is not None and text.startswith(self._bos)
        with tokenizer_faults_in_words(self._path):
            return list(self._tokenizer.encode(text, add_special_tokens=not written).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Turns token ids into text without special tokens.

        Raises:
            UserError: As `encode`.
        """
        with tokenizer_faults_in_words(self._path):
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: It cannot be read, is too large, or is not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES} bytes, which no tokenizer file is")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); the bundle is incomplete") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; the bundle is damaged") from None


def check_text(text: str) -> None:
    """Refuses half a character, which no tokenizer takes. Raises UserError."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError("the prompt is not valid text: write it in UTF-8")


def open_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer file, without truncation and padding.

    Raises:
        UserError: It cannot be read, or is none.
    """
    text = read_text(path)
    with tokenizer_faults_in_words(path):
        tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def tokenizer_faults_in_words(path: Path) -> Iterator[None]:
    """The library raises plain Exceptions, and its panics are not even those."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise UserError(f"{path}: not a tokenizer that works ({error})") from None
        raise


def _named_tokens(path: Path) -> dict[str, str]:
    """Reads the names of special tokens; each is a text or {"content": text}."""
    if not path.exists():
        return {}
    config = read_object(path)
    tokens = {name: config.get(name) for name in NAMED_TOKENS}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
