"""The script that builds on the board."""

from collections.abc import Sequence
from pathlib import Path

from engines.trt.jetson.boards import JetPack, numbers

TEMPLATE = Path(__file__).parents[2] / "templates" / "build_on_device.sh"


def script(bundle: str, jetpack: JetPack, commands: Sequence[str], version: str) -> str:
    """What `build_on_device.sh` says.

    Args:
        bundle: Its name, for the reader.
        jetpack: The release that it is for: any other TensorRT is refused on the board.
        commands: `commands.command` of each part, in the order in which they are built.
        version: Of tp-export.
    """
    first, last = numbers(jetpack.version)
    said = {
        "BUNDLE": "".join(letter for letter in bundle if letter.isprintable()),
        "JETPACK": jetpack.name,
        "TENSORRT": jetpack.version.label,
        "VERSION": version,
        "FIRST": str(first),
        "LAST": str(last),
        "COMMANDS": "\n".join(commands),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for word, value in said.items():
        text = text.replace(f"@{word}@", value)
    return text
