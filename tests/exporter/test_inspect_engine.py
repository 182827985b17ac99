"""`tp-export inspect --engine`: what became of the graphs in TensorRT's plans."""

import json

from tests.exporter.mistakes import refused, run


def test_fusion_of_every_part(demo_bundle):
    told = json.loads((demo_bundle / "bundle.json").read_text())
    entry = told["engines"]["trt-rtx"]
    assert set(entry["fusion"]) == set(entry["layers"]) == set(told["parts"])
    code, out, _ = run("inspect", demo_bundle, "--engine")
    assert code == 0
    assert "Engines for trt-rtx, fp16" in out
    assert "4 of 4 gemm" in out
    assert "fp32 in 16 bits" in out
    assert "Attention that is not one kernel" not in out
    assert "Waits for the host" not in out
    assert run("inspect", demo_bundle, "--engine", "trt-rtx")[1] == out
    for file in entry["layers"].values():
        assert json.loads((demo_bundle / file).read_text())


def test_an_engine_that_is_not_there(demo_bundle):
    refused("inspect", demo_bundle, "--engine", "trt-rtx:sm89", says="it has ort-cpu", where="the bundle has no")
    refused("inspect", demo_bundle, "--engine", "ort-cpu", says="only TensorRT plans", where="there is no list of")
