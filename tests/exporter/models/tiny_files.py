"""What a tiny checkpoint holds beside its weights: a tokenizer that knows videos, a template, a processor."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken

from exporter.demo_llava import train_tokenizer

DATA = Path(str(files("exporter"))) / "data" / "llava-1.5"
TEMPLATE = """\
{%- for message in messages -%}
{{ message.role | upper }}: {% for part in message.content if part.type != 'text' -%}
{{ '<video>' if part.type == 'video' else '<image>' }}
{% endfor %}
{%- for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif -%}
"""


def furnish(folder, **processor):
    """Write them; `processor` are entries of preprocessor_config.json, None takes one away."""
    for name in ("generation_config.json", "tokenizer_config.json"):
        shutil.copyfile(DATA / name, folder / name)
    tokenizer = train_tokenizer(DATA / "sentences.txt")
    tokenizer.add_special_tokens([AddedToken("<video>", special=True)])
    assert tokenizer.token_to_id("<video>") == 702
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    stored = json.loads((DATA / "preprocessor_config.json").read_text()) | processor
    told = {name: value for name, value in stored.items() if value is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
