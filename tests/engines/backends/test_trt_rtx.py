import pytest

from engines.backends import trt_rtx
from engines.errors import UserError
from engines.registry import engine


def test_it_is_a_target_that_honours_three_settings():
    assert engine("trt-rtx") is trt_rtx
    assert trt_rtx.settings == {"plugin", "weight_streaming", "level"}


def test_an_absent_plan_is_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no such plan; build it with tp-export build BUNDLE --target trt-rtx"):
        trt_rtx.load(tmp_path / "x.plan")


def test_precision_keeps_the_checkpoints_16_bit_type():
    assert [trt_rtx.dtype(d) for d in ("fp32", "fp16", "bf16")] == ["fp16", "fp16", "bf16"]


def test_options_are_gpus_that_the_builder_knows():
    trt_rtx.check(("sm86", "sm120"))
    with pytest.raises(UserError, match="a GPU is named twice; known are sm75"):
        trt_rtx.check(("sm86", "sm86"))
