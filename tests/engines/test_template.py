import pytest

from engines.errors import UserError
from engines.template import Template


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.__class__() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler() }}",
        "{{ dict() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ namespace(__call__=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ range(1000000) }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{% include 'config.json' %}",
    ],
)
def test_templates_are_kept_in_a_sandbox(source):
    with pytest.raises(UserError, match="cannot render") as caught:
        Template(source).render({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ 'x' * 10**10 }}", "takes more than 512 MiB"),
        ("{{ '%999999999d' % 1 }}", "takes more than 512 MiB"),
        ("{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "512 MiB"),
        ("{{ 'x' * 2**20 }}x", "writes more than 1048576 characters"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "its process died"),
    ],
)
def test_time_and_memory_have_an_end(source, says):
    with pytest.raises(UserError, match=says):
        Template(source).render({})


def test_invalid_templates_are_refused():
    with pytest.raises(UserError, match="not valid"):
        Template("{% for %}")


def test_blocks_leave_no_blank_lines_and_namespaces_count():
    loop = "    {% for i in range(3) %}\n{% set ns.n = ns.n * 2 %}\n{% endfor %}\n"
    assert Template("{% set ns = namespace(n=1) %}\n" + loop + "{{ ns.n }}").render({}) == "8"


def test_json_keeps_letters_as_they_are():
    assert Template("{{ x | tojson }}").render({"x": {"a": "é<&"}}) == '{"a": "é<&"}'


def test_the_generation_tags_leave_their_content():
    source = "{% for x in xs %}{% generation %}{% set y = x %}<{{ y }}>{% endgeneration %}{% endfor %}"
    assert Template(source).render({"xs": ["a", "b"]}) == "<a><b>"
