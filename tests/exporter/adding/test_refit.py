"""`build --refit-from`: another bundle's plans with this bundle's weights."""

from pathlib import Path

import pytest

from engines.errors import UserError
from engines.settings import Settings
from tests.exporter.adding.light_bundle import add, entry, light_bundle, whole


@pytest.fixture
def refits(toy, monkeypatch):
    """The child that puts weights into a plan, without a GPU; what it was asked for."""
    asked = []

    def child(function, kwargs, what, log):
        asked.append((function, what))
        Path(kwargs["out"]).write_text("refitted " + Path(kwargs["plan"]).read_text())
        return {"weights": 1, "peak_mib": 3}

    for module in ("add_engines", "refit"):
        monkeypatch.setattr(f"exporter.{module}.TARGET", "toy")
    monkeypatch.setattr("exporter.refit.run_in_child", child)
    return asked


def test_another_bundles_plans_take_this_bundles_weights(toy, path, tmp_path, refits):
    other = light_bundle(tmp_path / "other", weights=b"v")
    add(other, settings=Settings(refittable=True, level=1))
    assert add(path, refit_from=other).built == ["toy"]
    assert (path / "engines/toy/embed.plan").read_text().startswith('refitted ["embed.fp16.onnx"')
    assert next(what for _, what in refits).startswith("refitting 'vision' from ")
    assert entry(path)["settings"] == {"refittable": True, "level": 1}
    for same in ("fused_attention", "batch", "layers", "gpu", "builder"):
        assert entry(path)[same] == entry(other)[same]
    assert len(toy.builds) == len(refits) == 3
    assert whole(path)
    assert add(path, refit_from=other).kept == ["toy"]


def test_plans_that_cannot_be_refitted_are_refused(toy, path, tmp_path, refits):
    other = light_bundle(tmp_path / "other", scale=2.0)
    with pytest.raises(UserError, match=r"no refittable engines toy; build them with tp-export build .* --refittable"):
        add(path, refit_from=other)
    add(other)
    with pytest.raises(UserError, match="no refittable engines toy"):
        add(path, refit_from=other)
    add(other, settings=Settings(refittable=True))
    with pytest.raises(UserError, match="part 'vision' is another graph there, not only other weights"):
        add(path, refit_from=other)
    with pytest.raises(UserError, match="the plan stays as it was built; drop what else is set"):
        add(path, refit_from=other, settings=Settings(level=1))
    assert whole(path)
