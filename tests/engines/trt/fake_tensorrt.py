"""A stand-in for `tensorrt`: it records what is asked of it, and builds and runs nothing."""

import enum
from pathlib import Path
from types import SimpleNamespace

FLAGS = ["REFIT", "VERSION_COMPATIBLE", "WEIGHT_STREAMING"]


def values(name, *members):
    return enum.IntEnum(name, list(members), start=0)


class Anything:
    """Takes any arguments; a base class for what users derive from."""

    def __init__(self, *_, **__):
        pass


class ILogger(Anything):
    VERBOSE, INFO, WARNING, ERROR, INTERNAL_ERROR = values(
        "Severity", "VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"
    )


class Fake:
    """The module.

    Attributes:
        calls: what was asked, in order, as tuples of words and arguments.
        plan: what building gives; None for a build that fails with the line in `error`.
        engine: what deserialising gives.
    """

    __name__ = "tensorrt"

    def __init__(self, version="11.4.1", **changes):
        self.__version__, self.calls, self.error = version, [], "Error Code 1: Cuda (no GPU today)"
        self.plan, self.engine, self.network = b"plan", SimpleNamespace(refittable=True), Network()
        self.ILogger, self.IProgressMonitor, self.IStreamWriter = ILogger, Anything, Anything
        self.IOutputAllocator = Anything
        self.BuilderFlag = values("BuilderFlag", *FLAGS)
        self.HardwareCompatibilityLevel = values("Level", "NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
        self.NetworkDefinitionCreationFlag = values("Network", "EXPLICIT_BATCH", "STRONGLY_TYPED")
        self.OnnxParserFlag = values("Parser", "NATIVE_INSTANCENORM", "ENABLE_PLUGIN_OVERRIDE")
        self.MemoryPoolType = values("Pool", "WORKSPACE")
        self.ProfilingVerbosity = values("Verbosity", "LAYER_NAMES_ONLY", "DETAILED")
        self.LayerInformationFormat = values("Format", "ONELINE", "JSON")
        self.TensorIOMode = values("Mode", "NONE", "INPUT", "OUTPUT")
        self.TensorLocation = values("Location", "DEVICE", "HOST")
        self.__dict__.update(changes)

    def note(self, *what):
        self.calls.append(what)
        return True

    def asked(self, word):
        """The arguments of every call of that name."""
        return [call[1:] for call in self.calls if call[0] == word]

    def complain(self, logger, answer=None):
        logger.log(ILogger.ERROR, self.error)
        return answer

    def get_plugin_registry(self):
        return SimpleNamespace(load_library=lambda path: self.note("load_library", path) and object())

    def Builder(self, logger):  # noqa: N802
        return Builder(self, logger)

    def Runtime(self, logger):  # noqa: N802
        def read(data):
            self.note("deserialise", bytes(data))
            return self.engine or self.complain(logger)

        return SimpleNamespace(logger=logger, deserialize_cuda_engine=read)

    def OnnxParser(self, network, logger):  # noqa: N802
        return SimpleNamespace(
            set_flag=lambda flag: self.note("parser", flag.name),
            parse_from_file=lambda path: self.note("parse_from_file", path),
            parse=lambda data, path: self.note("parse", data, path),
        )


class Network:
    num_inputs, num_outputs = 0, 1


class Builder:
    def __init__(self, fake, logger):
        self.fake, self.logger = fake, logger
        if int(fake.__version__.split(".")[0]) > 10:
            self.build_serialized_network_to_stream = self.stream

    def create_network(self, flags):
        self.fake.note("create_network", flags)
        self.fake.network.builder = self
        return self.fake.network

    def create_builder_config(self):
        return Config(self.fake)

    def build_serialized_network(self, network, config):
        self.fake.note("build")
        return self.fake.plan or self.fake.complain(self.logger)

    def stream(self, network, config, writer):
        self.fake.note("stream")
        return (
            writer.write(self.fake.plan) == len(self.fake.plan) if self.fake.plan else self.fake.complain(self.logger)
        )


class Config:
    """Records every attribute that is set."""

    def __init__(self, fake):
        self.__dict__["fake"] = fake

    def __setattr__(self, name, value):
        self.fake.note(name, getattr(value, "name", value))

    def set_flag(self, flag):
        self.fake.note("flag", flag.name)

    def set_memory_pool_limit(self, pool, size):
        self.fake.note("memory", pool.name, size)

    def create_timing_cache(self, data):
        self.fake.note("create_timing_cache", data)
        return None if data == b"damaged" else Cache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.fake.note("set_timing_cache", cache.data, ignore_mismatch)
        self.__dict__["cache"] = cache
        return cache.data != b"of another GPU"

    def get_timing_cache(self):
        return Cache(self.cache.data + b"+new")


class Cache:
    def __init__(self, data):
        self.data = data

    def combine(self, other, ignore_mismatch):
        self.data += b"|" + other.data

    def serialize(self):
        return self.data


def save_graph(file: Path, text: str) -> Path:
    import onnx

    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20, "tp.export" : 1]>\n{text}'), file)
    return file
