from types import SimpleNamespace

import pytest

from engines.errors import UserError
from engines.trt import runtime
from engines.trt.refit import refit_plan


class Refittable:
    """TensorRT's half of refitting: each call can be made to fail."""

    def __init__(self, trt, fail=""):
        self.trt, self.fail = trt, fail
        trt.Refitter, trt.OnnxParserRefitter = self.refitter, self.parser
        trt.engine = SimpleNamespace(refittable=fail != "refittable", serialize=self.serialise)

    def does(self, call, *arguments):
        self.trt.note(call, *arguments)
        return call != self.fail

    def refitter(self, engine, logger):
        self.logger = logger
        return SimpleNamespace(
            get_missing_weights=lambda: ["layer.0.w", "layer.1.w"] if self.fail == "missing" else [],
            refit_cuda_engine=lambda: self.does("refit") or self.trt.complain(logger, answer=False),
            get_all_weights=lambda: ["a", "b", "c"],
        )

    def parser(self, refitter, logger):
        error = SimpleNamespace(desc=lambda: "count mismatch", node_operator=lambda: "MatMul", node_name=lambda: "m")
        return SimpleNamespace(refit_from_file=lambda path: self.does("read", path), get_error=lambda _: error)

    def serialise(self):
        self.trt.note("serialise")
        return b"new plan"


@pytest.fixture
def refit(fake, tmp_path):
    def make(fail="", folder=tmp_path):
        trt = fake()
        Refittable(trt, fail)
        (tmp_path / "old.plan").write_bytes(b"old plan")
        found = refit_plan("tensorrt", str(tmp_path / "old.plan"), "new.onnx", str(folder / "new.plan"))
        return trt, found

    return make


def test_the_order_of_calls_and_the_new_plan(refit, tmp_path):
    trt, found = refit()
    assert trt.calls == [("deserialise", b"old plan"), ("read", "new.onnx"), ("refit",), ("serialise",)]
    assert found == {"weights": 3}
    assert (tmp_path / "new.plan").read_bytes() == b"new plan"
    assert (tmp_path / "old.plan").read_bytes() == b"old plan"


@pytest.mark.parametrize(
    ("fail", "match"),
    [
        ("refittable", "old.plan was not built refittable: build it with tp-export build BUNDLE .*--refittable"),
        ("read", "new.onnx has not the weights that the plan wants: the ONNX parser refuses MatMul m: count mismatch"),
        ("missing", r"new.onnx lacks 2 of the plan's weights, such as layer.0.w: export it alike"),
        ("refit", "the plan cannot take the weights of new.onnx: no GPU today"),
    ],
)
def test_every_failure_is_one_line_and_leaves_nothing(refit, tmp_path, fail, match):
    with pytest.raises(UserError, match=match) as caught:
        refit(fail)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["old.plan"]


def test_a_plan_that_the_runtime_refuses_is_one_line(fake, tmp_path):
    fake(engine=None, error="IRuntime::x: Error Code 6: API Usage Error (The engine is for another GPU.)")
    (tmp_path / "old.plan").write_bytes(b"old plan")
    with pytest.raises(
        UserError, match=r"old.plan is no plan that tensorrt 11.4.1 runs here: The engine is for another"
    ):
        refit_plan("tensorrt", str(tmp_path / "old.plan"), "new.onnx", str(tmp_path / "new.plan"))


def test_a_folder_that_is_gone_is_one_line(refit, tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*new\.plan: No such file"):
        refit(folder=tmp_path / "gone")


def test_plugins_beside_the_plan_are_loaded_first(refit, tmp_path, monkeypatch):
    monkeypatch.setattr("plugins.library.load", lambda trt, path: trt.note("plugins", path))
    (tmp_path / runtime.LIBRARY).touch()
    trt, _ = refit()
    assert trt.calls[0] == ("plugins", tmp_path / runtime.LIBRARY)
