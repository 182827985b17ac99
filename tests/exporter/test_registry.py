import importlib
import pkgutil
import sys
from pathlib import Path

import pytest

import exporter.methods
from engines.errors import UserError
from exporter.methods.fastervlm import FasterVLM
from exporter.models.llava import Llava
from exporter.registry import family, method, method_class, method_names

DROPPED = '''
from dataclasses import dataclass

from exporter.reducer import Reducer


@dataclass(frozen=True)
class Dropped(Reducer):
    """Tests only."""

    title = "Dropped"
    paper = "none"
    layers: int = 2
    ratio: float = 0.5
    metric: str = "l2"


METHOD = Dropped
'''


@pytest.fixture
def dropped(tmp_path, monkeypatch):
    """A method file in a directory of its own, on the package's path for one test."""
    (tmp_path / "dropped_in.py").write_text(DROPPED)
    monkeypatch.setattr(exporter.methods, "__path__", [*exporter.methods.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield "dropped-in"
    sys.modules.pop("exporter.methods.dropped_in", None)


def test_shipped_methods_are_found_by_their_files():
    assert {"fastervlm", "none"} <= set(method_names())
    assert method_names() == sorted(method_names())
    assert method_class("fastervlm") is FasterVLM
    assert method("fastervlm") == FasterVLM()


def test_every_shipped_method_says_what_it_is():
    shipped = [module.name for module in pkgutil.iter_modules([str(Path(exporter.methods.__file__).parent)])]
    assert len(shipped) >= 2
    for name in shipped:
        found = method_class(name.replace("_", "-"))
        assert found.title
        assert found.paper
        assert not found.__doc__.startswith(f"{found.__name__}("), "a docstring of its own, not dataclass's"


def test_a_dropped_file_is_a_method(dropped):
    assert dropped in method_names()
    found = method(dropped, {"layers": "3", "ratio": "0.25"})
    assert (found.title, found.layers, found.ratio, found.metric) == ("Dropped", 3, 0.25, "l2")
    assert method(dropped) == method_class(dropped)()


@pytest.mark.parametrize(("given", "says"), [({"layers": "two"}, "'two'"), ({"ratio": ""}, "could not convert")])
def test_a_value_of_the_wrong_kind_is_refused(dropped, given, says):
    with pytest.raises(UserError, match=f"--param: dropped-in cannot take .*{says}"):
        method(dropped, given)


def test_unknown_parameters_name_the_known(dropped):
    with pytest.raises(UserError, match=r"--param depth: dropped-in .* it has: layers, ratio, metric"):
        method(dropped, {"depth": "1"})
    with pytest.raises(UserError, match=r"--param depth: fastervlm .* it has: none"):
        method("fastervlm", {"depth": "1"})


def test_unknown_methods_name_the_nearest_or_all():
    with pytest.raises(UserError, match="did you mean fastervlm"):
        method("fastvlm")
    with pytest.raises(UserError, match=r"there are: .*fastervlm, .*none"):
        method("zzzz")


@pytest.mark.parametrize("name", ["../cli", "exporter.cli", "", "os", "__init__"])
def test_names_that_are_no_method_import_nothing(name):
    with pytest.raises(UserError, match="no such method"):
        method(name)


def test_families_are_found_by_architecture():
    assert family({"architectures": ["Else", "LlavaForConditionalGeneration"]}, "here") is Llava


@pytest.mark.parametrize(
    "config", [{}, {"architectures": ["Bert"]}, {"architectures": "Llava"}, {"architectures": [3]}]
)
def test_unknown_architectures_name_the_supported(config):
    with pytest.raises(
        UserError,
        match=r"here/config.json: .* supported: \[LlamaFor.*, VideoLlavaFor.*\]",
    ):
        family(config, "here")
