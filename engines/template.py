"""Chat templates: untrusted Jinja, rendered in a sandbox that offers what such templates commonly use."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from engines.errors import UserError

# What a template can raise beside Jinja's own errors: it computes with the conversation.
FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class Template:
    """A compiled chat template.

    Args:
        source: The Jinja text.

    Raises:
        UserError: It is not valid Jinja, or fails or refuses a conversation while rendering.
    """

    def __init__(self, source: str) -> None:
        sandbox = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        sandbox.filters["tojson"] = _to_json
        sandbox.globals.clear()
        sandbox.globals.update(range=safe_range, namespace=PlainNamespace, raise_exception=_refuse)
        try:
            self._template = sandbox.from_string(source)
        except FAULTS as error:
            raise UserError(f"the chat template is not valid: {error}") from None

    def render(self, values: Mapping[str, Any]) -> str:
        """Renders the template with the given variables."""
        try:
            return self._template.render(values)
        except FAULTS as error:
            raise UserError(f"the chat template cannot render this conversation: {error}") from None


class Generation(Extension):
    """The tags `generation … endgeneration`, which mark the text to train on: their content stays."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """Returns the content of the tags in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class PlainNamespace(Namespace):
    """A namespace without underscore names: Jinja itself looks up some of them on objects that it calls."""

    def __init__(self, values: Mapping[str, object] | None = None, /, **more: object) -> None:
        super().__init__()
        for name, value in {**(values or {}), **more}.items():
            self[name] = value

    def __setitem__(self, name: str, value: object) -> None:
        """Sets a value.

        Raises:
            SecurityError: The name begins with an underscore.
        """
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(str(message))


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
