"""TensorRT-RTX builds a graph, in a process of its own, with the Python plugins or without: what became of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.documents import ROOT


def built(path, **wishes):
    """What `main` below found; wishes: what it takes besides."""
    command = [sys.executable, "-m", "tests.plugins.rtx", str(path), json.dumps(wishes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def main(path, *, plugins=False, inside=False, override=True, bare=False, sizes=None):
    """Parse and build for SM89; returns the plan's bytes, plugin layers, outputs' shapes, calls, errors.

    plugins: true for those in Python, or the path of a library; inside: the plan carries it; bare: functions are
    stripped; sizes: the largest of dynamic axes by name, else 4.
    """
    import tensorrt_rtx as trt

    from engines.trt.parse import without_functions
    from plugins import creators, library

    said, calls = [], []

    class Listener(trt.ILogger):
        def log(self, severity, message):
            said.append((severity, message))

    if isinstance(plugins, str):
        library.load(trt, plugins)
    elif plugins:
        creators.register(trt, calls.append)
        creators.register(trt, calls.append)  # what is there stays
    builder = trt.Builder(listener := Listener())
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, listener)
    if override:
        parser.set_flag(trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
    if not (parser.parse(without_functions(path), path) if bare else parser.parse_from_file(path)):
        refused = library.complaint(plugins) if isinstance(plugins, str) else ""
        return {"error": refused or parser.get_error(0).desc()}
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    config.add_optimization_profile(profile(builder, network, sizes or {}))
    if inside:
        config.plugins_to_serialize = [plugins]
    plan = builder.build_serialized_network(network, config)
    errors = [message for severity, message in said if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return {
        "bytes": plan.nbytes if plan else 0,
        "plugins": [message for _, message in said if message.startswith("PLUGIN_V3 ")],
        "outputs": {tensor.name: list(tensor.shape) for tensor in outputs},
        "calls": calls,
        "error": errors[0] if errors and not plan else "",
    }


def profile(builder, network, sizes):
    """From 1 to the largest; what has `tokens` is as long from the beginning."""
    shapes = builder.create_optimization_profile()
    for tensor in (network.get_input(i) for i in range(network.num_inputs)):
        names = [tensor.get_dimension_name(axis) for axis in range(len(tensor.shape))]
        high = [sizes.get(name, 4) if size < 0 else size for name, size in zip(names, tensor.shape, strict=True)]
        low = [
            1 if size < 0 and name == "batch" else most
            for name, size, most in zip(names, tensor.shape, high, strict=True)
        ]
        shapes.set_shape(tensor.name, low, high, high)
    return shapes


if __name__ == "__main__":
    found = main(Path(sys.argv[1]).as_posix(), **json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # interpreters that end in any order end registries in any order
