"""What TensorRT-RTX says of graphs: each in a fork of one child, so that an abort is an answer, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

LEAST, USUAL, MOST = 2, 16, 32  # of every dynamic axis


def answers(asked):
    """A complaint of the parser or the builder for each (file, generation or None); "" if it built a plan.

    Profiles of a file may be in FILE.profiles.json: a list of {input: [min, opt, max]}.
    """
    done = subprocess.run(
        [sys.executable, "-P", __file__, *(f"{file}@{sm or ''}" for file, sm in asked)],
        env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(said) == len(asked), done.stderr
    return [word for (word,) in said]


def _build(trt, file, sm):
    class Listener(trt.ILogger):
        first = ""

        def log(self, severity, message):
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.first = self.first or " ".join(message.split())

    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, listener)
    if not parser.parse_from_file(file):
        return f"parser: {' '.join(parser.get_error(0).desc().split())}"
    config = builder.create_builder_config()
    if sm:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[f"SM{sm}"], 0)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    listed = Path(f"{file}.profiles.json")
    for ranges in json.loads(listed.read_text()) if listed.exists() else [_ranges(inputs)]:
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            profile.set_shape(name, *map(tuple, shapes))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return "" if plan else f"builder: {listener.first}"


def _ranges(inputs):
    dynamic = {tensor.name: tuple(tensor.shape) for tensor in inputs if -1 in tuple(tensor.shape)}
    return {
        name: [[size if size > 0 else each for size in shape] for each in (LEAST, USUAL, MOST)]
        for name, shape in dynamic.items()
    }


def main():
    import tensorrt_rtx as trt

    for word in sys.argv[1:]:
        file, _, sm = word.rpartition("@")
        if not (child := os.fork()):
            sys.stdout.write(json.dumps([_build(trt, file, sm)]) + "\n")
            sys.stdout.flush()
            os._exit(0)
        if status := os.waitpid(child, 0)[1]:
            sys.stdout.write(json.dumps([f"died of {status}"]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
