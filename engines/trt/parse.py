"""An ONNX file into a network, with plugins in place of functions where there is a library of them."""

from pathlib import Path

from engines.errors import UserError
from engines.trt.native import FULL, Native, version_of
from engines.trt.words import refusal

PREFERS = (10, 7)  # from here on a plugin takes the place of a function of its name; later only if a flag says so


def parse(trt: Native, network: Native, onnx: str, plugin: str | None) -> Native:
    """Fills a network from a file with its weights beside it, and returns the parser: what it read lives in it.

    Raises:
        UserError: The library cannot be loaded, or the parser's first complaint about the file.
    """
    listener = network.builder.logger
    parser = trt.OnnxParser(network, listener)
    if plugin:
        load_plugins(trt, plugin)
        flags = trt.OnnxParserFlag.__members__
        if "ENABLE_PLUGIN_OVERRIDE" in flags:
            parser.set_flag(flags["ENABLE_PLUGIN_OVERRIDE"])
    bare = plugin and trt.__name__ == FULL and version_of(trt) < PREFERS
    done = parser.parse(without_functions(onnx), onnx) if bare else parser.parse_from_file(onnx)
    if not done:
        raise UserError(_refused_by(plugin) or refusal(parser.get_error(0), listener.first))
    if not network.num_outputs:
        raise UserError("the ONNX parser found no graph in the file: copy or export it again")
    return parser


def load_plugins(trt: Native, path: str | Path) -> None:
    """Makes our plugins known to the builder, the parser and the runtime of this process.

    Raises:
        UserError: There is no such library, or it is none of our plugins for this TensorRT.
    """
    from plugins import library

    try:
        library.load(trt, path)
    except library.LibraryError as error:
        raise UserError(str(error)) from error


def _refused_by(plugin: str | None) -> str:
    """Why a plugin of a loaded library gave up, if one did: the parser says no more than that."""
    from plugins import library

    return library.complaint(plugin) if plugin else ""


def without_functions(onnx: str) -> bytes:
    """The graph alone: old parsers take a function wherever there is one."""
    import onnx as library

    model = library.load(onnx, load_external_data=False)
    del model.functions[:]
    return bytes(model.SerializeToString())
