"""OpenVINO on the demo model: what it keeps, computes and says is what ONNX Runtime does."""

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from engines import parity
from engines.bundle import open_bundle
from engines.session import Session
from exporter.cli import tp_export
from exporter.export import export
from exporter.pictures import pictures
from exporter.recipe import Recipe


@pytest.mark.parametrize(("method", "keep"), [("fastervlm", "64"), ("fastv", "64"), ("divprune", "64"), ("none", None)])
def test_equals_onnx_runtime(demo_bundle, tmp_path, method, keep):
    path = demo_bundle
    if method != "fastervlm":
        path = tmp_path / method
        export(Recipe(method=method, keep=keep, targets=("ort-cpu",), parity="none"), path, Console(quiet=True))
    cases = parity.load(demo_bundle / "parity", "fp32")[0]
    want, got = (
        parity.run(Session.open(path, target), cases, demo_bundle / "parity") for target in ("ort-cpu", "ov-cpu")
    )
    assert len(cases) > 1  # a batch
    for mine, other in zip(got.kept, want.kept, strict=True):
        np.testing.assert_array_equal(mine, other)
    for mine, other in zip(got.cuts, want.cuts, strict=True):
        assert mine.keys() == other.keys()
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
    assert bool(want.cuts[0]) == (method == "fastv")
    for mine, other in zip(got.logits, want.logits, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-4)
    assert got.tokens == want.tokens


def test_its_engines_are_the_graphs(demo_bundle):
    raw = open_bundle(demo_bundle).contract
    assert raw["engines"]["ov-cpu"]["files"] == {name: part["files"]["fp32"] for name, part in raw["parts"].items()}


def test_the_command_answers_with_it(demo_bundle):
    [picture, *_] = pictures("demo")
    question = picture.questions[0]
    command = ["run", str(demo_bundle), "--image", str(picture.path), "--prompt", question.text, "--target", "ov-cpu"]
    assert CliRunner().invoke(tp_export, command).output == f"{question.answer}\n"
