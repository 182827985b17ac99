"""A bundle of toy graphs with a valid contract, and a target that builds at once and says from what."""

import shutil
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import engines.backends
from engines.bundle import open_bundle, verify
from exporter.add_engines import Wish, add_engines
from exporter.publish import seal
from tests.engines.numpy_bundle import contract
from tests.engines.numpy_model import NumpyModel

TOY = """
import json
from engines.registry import BuildResult

name, extension, install = "toy", ".plan", "pip install toy"
settings = frozenset({"level", "plugin", "refittable"})
builds = []
form = ()

def available(): return None
def version(): return "1"
def dtype(checkpoint): return "fp16"
def legal(dtype, loops): return form
def check(options): pass
def build(job):
    builds.append(job)
    job.tell("working")
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.write_text("done")
    job.out.write_text(json.dumps([job.onnx.name, job.settings.chosen()]))
    job.out.with_suffix(".layers.json").write_text("[]")
    details = {"builder": "1", "gpu": ",".join(job.options), "fused_attention": {"_gemm_mha_v2": 1}}
    return BuildResult(job.out, 0.5, job.out.stat().st_size, 7, details)
"""
QUIET = Console(quiet=True)
ATTENTION = {"vision"}  # parts with an operator that can be written out


def graph(part, dtype, scale):
    """One weight beside the graph, and an attention that some target may want in another form."""
    kind = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}[dtype]
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.safetensors"), ("offset", "0"), ("length", "32")):
        weight.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Cast", ["weight"], ["w"], to=kind), helper.make_node("Mul", ["w", "s"], ["x"])]
    if part in ATTENTION:
        shape = numpy_helper.from_array(np.array([1, 1, 1, 8]), "shape")
        nodes += [
            helper.make_node("Reshape", ["x", "shape"], ["q"]),
            helper.make_node("Attention", ["q", "q", "q"], ["y"]),
        ]
        more, out = [shape], helper.make_tensor_value_info("y", kind, [1, 1, 1, 8])
    else:
        more, out = [], helper.make_tensor_value_info("x", kind, [8])
    factor = numpy_helper.from_array(np.array([scale], helper.tensor_dtype_to_np_dtype(kind)), "s")
    made = helper.make_graph(nodes, part, [], [out], [weight, factor, *more])
    made.value_info.append(helper.make_tensor_value_info("q", kind, [1, 1, 1, 8]))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def light_bundle(folder, scale=1.0, weights=b"w", plugin=False):
    """Three parts in fp32 and fp16 over one shard; `scale` changes the graphs, `weights` the shard."""
    told = contract(NumpyModel())
    told["model"]["dtype"] = "fp16"
    told |= {"engines": {}, "tp_export": "0", "created": "", "versions": {}}
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx/model.safetensors").write_bytes(weights * 32)
    for name, part in told["parts"].items():
        for port in part["inputs"]:
            cached = port["name"].startswith("past_key_values")
            port["shape"] = ["batch", 1, "past", 2] if cached else ["batch", 3]
        part["files"] = {dtype: f"onnx/{name}.{dtype}.onnx" for dtype in ("fp32", "fp16")}
        for dtype, file in part["files"].items():
            onnx.save(graph(name, dtype, scale), folder / file)
            if plugin and name == "vision":
                onnx.save(graph(name, dtype, 2 * scale), folder / f"onnx/{name}.{dtype}.plugin.onnx")
    seal(folder, told)
    return folder


def add_toy(folder):
    """Makes the toy a target; returns its module."""
    (folder / "toy.py").write_text(TOY)
    engines.backends.__path__.append(str(folder))
    sys.modules.pop("engines.backends.toy", None)
    from engines.registry import engine

    return engine("toy")


def remove_toy(folder):
    engines.backends.__path__[:] = [each for each in engines.backends.__path__ if each != str(folder)]
    sys.modules.pop("engines.backends.toy", None)
    shutil.rmtree(folder, ignore_errors=True)


def add(path, *targets, **more):
    return add_engines(path, Wish(targets or ("toy",), **more), QUIET)


def entry(path, label="toy"):
    return open_bundle(path).contract["engines"][label]


def whole(path):
    """Every file is as recorded, and nothing else lies in the bundle."""
    bundle = open_bundle(path)
    verify(bundle)
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    return found == {*bundle.contract["files"], "bundle.json"} and not list(path.glob(".*"))
