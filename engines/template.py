"""Chat templates: untrusted Jinja, rendered in a sandbox that offers what such templates commonly use."""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from subprocess import DEVNULL, PIPE
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
MAX_CPU_S = 3
MAX_MEMORY = 2**29
MAX_TEXT = 2**20


class Template:
    """A chat template.

    Args:
        source: The Jinja text.
        name: What errors call it.

    Raises:
        UserError: It is not valid Jinja.
    """

    def __init__(self, source: str, name: str = "the chat template") -> None:
        self._source, self._name = source, name
        try:
            _sandbox().parse(source)  # no more: compiling computes constants
        except FAULTS as error:
            raise UserError(f"{name} is not valid: {error}") from None

    def render(self, values: Mapping[str, Any]) -> str:
        """Renders the template with the given variables.

        A sandbox does not count time and memory, so this happens in a process of its own, which does.

        Raises:
            UserError: The template fails or refuses the conversation, or wants more than MAX_CPU_S or MAX_MEMORY.
        """
        # -P and -c: the user's folder, which may hold an `engines` of its own, stays off the module path
        command = [sys.executable, "-P", "-c", "from engines.template import serve; serve()"]
        request = json.dumps([self._source, dict(values)]).encode()
        child = subprocess.run(command, input=request, stdout=PIPE, stderr=DEVNULL, check=False)
        if child.returncode:
            died = f"status {child.returncode}; {MAX_CPU_S} s and {MAX_MEMORY >> 20} MiB are allowed"
            raise UserError(f"{self._name} cannot render this conversation: its process died ({died})")
        answer = json.loads(child.stdout)
        if "error" in answer:
            raise UserError(f"{self._name} cannot render this conversation: {answer['error']}")
        return str(answer["text"])


def serve() -> None:
    """Renders one template; runs in the child."""
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    source, values = json.load(sys.stdin)
    try:
        text = _sandbox().from_string(source).render(values)
        answer = {"text": text} if len(text) <= MAX_TEXT else {"error": f"it writes more than {MAX_TEXT} characters"}
    except FAULTS as error:
        answer = {"error": str(error)[:300]}
    except MemoryError:
        answer = {"error": f"it takes more than {MAX_MEMORY >> 20} MiB"}
    json.dump(answer, sys.stdout)


def _sandbox() -> ImmutableSandboxedEnvironment:
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = _to_json
    sandbox.globals.clear()
    sandbox.globals.update(range=safe_range, namespace=PlainNamespace, raise_exception=_refuse)
    return sandbox


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
